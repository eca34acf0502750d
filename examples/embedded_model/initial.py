"""Initial weights: a circuit that copies repeated text, written by hand, so that training starts from copying.

Must not: know tasks or tokenizers. Invariant: the first two layers together are an induction head that matches the
last three tokens; everything else adds nothing to the residual stream yet.

An induction head ("what followed when these tokens stood here before?", Olsson et al. 2209.11895) does not form in a
budget of minutes: from random weights the loss on unseen repeated strings stood still, and one built from single-token
matches confused itself wherever a token occurs twice, as all do in code. Layer 0 writes the previous three tokens into
slices of the residual stream (a causal convolution shifts); the attention of layer 1 compares the present and previous
two tokens with what each earlier position has as its previous three, and copies the embedding found there.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from examples.embedded_model.model import Attention, DeltaNet, Layer, TrainableModel

EMBEDDED = 112
"""Dims of the residual stream that hold the token's embedding; dim 0 of them is a constant and serves as a bias."""
SKETCH = 48
"""Dims of a random projection of an embedding: one slice of the residual stream for each of the three shifts."""
SHIFTS = 3
CONSTANT = 0.5
SHARPNESS = (1.0, 0.85, 0.7)
"""Share of the match given to the present token, the one before, and the one before that."""
EMPTY = ("o_proj.weight", "down_proj.weight", "out_proj.weight")


@torch.no_grad()
def initialise(model: TrainableModel) -> None:
    """Writes all two-dimensional weights of the model; needs its hidden size to be EMBEDDED + SHIFTS * SKETCH."""
    size = model.shape.hidden_size
    if size != EMBEDDED + SHIFTS * SKETCH:
        raise ValueError(f"hidden_size {size}: the copying circuit is laid out for {EMBEDDED + SHIFTS * SKETCH}")
    for name, p in model.named_parameters():
        if p.dim() == 2:
            nn.init.normal_(p, std=0.02)
            if name.endswith(EMPTY):
                nn.init.zeros_(p)
    embedding = model.model.embed_tokens.weight
    embedding.zero_()
    embedding[:, 1:EMBEDDED].normal_(std=(EMBEDDED - 1) ** -0.5)
    embedding[:, 0] = CONSTANT  # the same for every token, so that the tied logits do not see it
    sketch = nn.init.orthogonal_(torch.empty(SKETCH, EMBEDDED - 1))
    first, second = cast("list[Layer]", list(model.model.layers)[:2])
    _write_shifts(first.linear_attn, sketch)
    tokens = torch.randint(13, model.shape.vocab_size, (8, 64))
    seen = first(model.model.embed_tokens(tokens), model.rope(64, tokens.device))
    _write_match(second.self_attn, sketch, second.input_layernorm(seen)[:, SHIFTS + 1 :].flatten(0, 1))


def shift_slice(i: int) -> slice:
    """Dims of the residual stream that hold the sketch of the token i + 1 positions back."""
    return slice(EMBEDDED + SKETCH * i, EMBEDDED + SKETCH * (i + 1))


def _write_shifts(net: DeltaNet, sketch: Tensor) -> None:
    """Value head i carries the sketch of the token i + 1 back; query and key are equal, so each row reads itself."""
    keys, values = net.sizes[0], net.sizes[2]
    width = net.s.linear_value_head_dim
    weight, taps = net.in_proj_qkv.weight, net.conv1d.weight
    weight.zero_()
    nn.init.normal_(taps, std=0.02)
    rows = nn.init.orthogonal_(torch.empty(keys, EMBEDDED - 1))
    weight[:keys, 1:EMBEDDED] = weight[keys : 2 * keys, 1:EMBEDDED] = rows
    taps[: 2 * keys, 0, -1] = 1.0
    for i in range(SHIFTS):
        start = 2 * keys + width * i
        weight[start : start + SKETCH, 1:EMBEDDED] = sketch
        weight[start : start + SKETCH, 0] = 0.28  # lifts the values to where SiLU is nearly straight
        taps[start : start + width, 0, :] = 0.0
        taps[start : start + width, 0, -2 - i] = 1.0
        net.out_proj.weight[shift_slice(i), width * i : width * i + SKETCH] = 0.095 * torch.eye(SKETCH)
    for gate, level in ((net.in_proj_z.weight, 0.2), (net.in_proj_b.weight, 0.4)):
        gate.zero_()
        gate[:, 0] = level
    net.dt_bias.copy_(torch.logspace(-3, -1.7, values // width).expm1().log())
    nn.init.zeros_(net.A_log)


def _write_match(net: Attention, sketch: Tensor, seen: Tensor) -> None:
    """Queries hold the present and two previous tokens, keys the three before; values are embeddings.

    seen: what the layer reads on random tokens [n, hidden]; it sets scales and centres.
    """
    s, turned = net.s, int(net.s.head_dim * net.s.partial_rotary_factor)
    part = (s.head_dim - turned) // SHIFTS  # in dims that RoPE leaves alone: the match is blind to distance
    projections = [nn.init.orthogonal_(torch.empty(part, SKETCH)) for _ in range(SHIFTS)]
    constant = seen[:, 0].mean()

    def put(rows: Tensor, block: Tensor, source: slice, std: float) -> None:
        rows[:, source] = block
        made = seen[:, source] @ block.T
        scale = std / made.std(0).mean()
        rows[:, source] *= scale
        rows[:, 0] -= made.mean(0) * scale / constant

    queries = net.q_proj.weight.view(s.num_attention_heads, 2, s.head_dim, -1)  # half of it is the output gate
    keys = net.k_proj.weight.view(s.num_key_value_heads, s.head_dim, -1)
    for weight in (net.q_proj.weight, net.k_proj.weight, net.v_proj.weight, net.o_proj.weight):
        weight.zero_()
    for i, std in enumerate(SHARPNESS):
        rows = slice(turned + part * i, turned + part * (i + 1))
        for head in keys:
            put(head[rows], projections[i], shift_slice(i), std)
        for head in queries[:, 0]:
            if i == 0:
                put(head[rows], projections[0] @ sketch, slice(1, EMBEDDED), std)
            else:
                put(head[rows], projections[i], shift_slice(i - 1), std)
    net.q_norm.weight.fill_(0.6)
    net.k_norm.weight.fill_(0.6)
    groups = s.num_attention_heads // s.num_key_value_heads
    half = EMBEDDED // 2
    for j, dims in enumerate((slice(1, half + 1), slice(half + 1, EMBEDDED))):
        count = dims.stop - dims.start
        net.v_proj.weight[s.head_dim * j : s.head_dim * j + count, dims] = torch.eye(count)
        for head in range(groups * j, groups * (j + 1)):
            net.o_proj.weight[dims, s.head_dim * head : s.head_dim * head + count] = 0.2 * torch.eye(count)
