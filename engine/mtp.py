"""The multi-token-prediction head in Qwen's layout, with its own KV cache.

Must not: touch the target's caches. Its numbers influence drafts only, never the output.
Invariant: slot p of its cache holds (token p+1, target hidden state p). Inputs are POST-final-norm hidden states, the
embedding half comes first, and a chained step feeds back the post-`mtp.norm` state (five projects got this wrong and
lost 2 to 6 points of acceptance: llama.cpp #24025, LightLLM #1402).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from engine.attention import Attention, AttentionBlock
from engine.captures import Captures
from engine.config import ModelConfig
from engine.kv import KVCache
from engine.layers import Linear, Norm, Rope
from engine.moe import MoE, feed_forward
from engine.upload import on_host
from engine.weights import Weights

T = TypeVar("T")
Following = Sequence[int] | Tensor


PADDED = 8
"""Slots are filled in multiples of so many rows, so that a slot has the same bits whatever it was filled together
with; slots of a chain are thrown away and need no padding."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """Static inputs of so many rows: places, following: int64 [rows]; hidden: [rows, H]; attended: fp32 [rows, heads *
    head_dim]."""

    places: Tensor
    following: Tensor
    hidden: Tensor
    attended: Tensor


class MtpHead:
    """One re-applied full-attention layer; embedding and lm_head are the target's."""

    def __init__(
        self,
        weights: Weights,
        config: ModelConfig,
        embedding: Tensor,
        head: Linear,
        rope: Rope,
        dtype: torch.dtype,
        captures: Captures,
    ) -> None:
        self._captures, self._buffers = captures, dict[int, Buffers]()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.embedding, self.head, self.rope, self.config = embedding, head, rope, config
        self.fc = Linear(weights.take("mtp.fc.weight", (hidden, 2 * hidden), dtype))
        self.norm_embedding = Norm(weights.take("mtp.pre_fc_norm_embedding.weight", (hidden,), dtype), eps)
        self.norm_hidden = Norm(weights.take("mtp.pre_fc_norm_hidden.weight", (hidden,), dtype), eps)
        self.norm = Norm(weights.take("mtp.norm.weight", (hidden,), dtype), eps)
        layer = "mtp.layers.0."
        self.norm_in = Norm(weights.take(f"{layer}input_layernorm.weight", (hidden,), dtype), eps)
        self.norm_mid = Norm(weights.take(f"{layer}post_attention_layernorm.weight", (hidden,), dtype), eps)
        self.attention = Attention(weights, f"{layer}self_attn.", config, dtype)
        # the files decide: the head of a mixture may be a dense block
        sparse = weights.has(f"{layer}mlp.gate.weight")
        self.mlp = feed_forward(weights, f"{layer}mlp.", config, dtype, sparse=sparse)

    @torch.inference_mode()
    def fill(self, cache: KVCache, position: int, following: Following, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Writes slots position.. from target hidden states [n, H] and the tokens that follow them.

        following: n token ids, a list or int64 on the device (so that a chain need not wait for it).
        Returns (state [1, H], logits [1, V] fp32) of the last slot: the first draft. The state is valid
        until the next call.
        """
        state = self._forward(cache, position, following, hidden, PADDED)[-1:]
        return state, self.head(state).float()

    @torch.inference_mode()
    def write(self, cache: KVCache, position: int, following: Following, hidden: Tensor) -> None:
        """`fill` without what only a draft needs: the logits over the whole vocabulary."""
        self._forward(cache, position, following, hidden, PADDED)

    @torch.inference_mode()
    def step(self, cache: KVCache, position: int, token: int | Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One chained draft: slot `position` from the drafted token (int64 [1]) and the state before it; as `fill`."""
        state = self._forward(cache, position, [token] if isinstance(token, int) else token, state)[-1:]
        return state, self.head(state).float()

    def _forward(
        self, cache: KVCache, position: int, following: Following, hidden: Tensor, multiple: int = 1
    ) -> Tensor:
        """Valid until anything captured is called next."""
        real = hidden.shape[0]
        rows = -(-real // multiple) * multiple
        kept = self._buffers.get(rows) or self._new_buffers(rows)
        kept.places.copy_(on_host(range(position, position + rows), hidden.device), non_blocking=True)
        if not isinstance(following, Tensor):
            following = on_host(following, hidden.device)
        kept.following[:real].copy_(following, non_blocking=True)
        kept.hidden[:real] = hidden
        if real < rows:
            kept.following[real:] = 0
            kept.hidden[real:] = 0
        run = self._captures.run if rows <= PADDED else _run
        x, q, k, v, gate = run(("mtp", rows, "before"), partial(self._before, kept))
        block = AttentionBlock(cache, position, slice(0, real))
        self.attention.attend(q, k, v, [block], kept.attended)
        out = run(("mtp", rows, "behind"), partial(self._behind, kept, x, gate))
        return out[:real]

    def _new_buffers(self, rows: int) -> Buffers:
        hidden, device = self.config.hidden_size, self.embedding.device
        places = torch.zeros(2, rows, dtype=torch.int64, device=device)
        states = torch.zeros(rows, hidden, dtype=self.embedding.dtype, device=device)
        made = Buffers(places[0], places[1], states, torch.zeros(rows, self.attention.q_dim, device=device))
        if rows <= PADDED:  # chunks of a prompt come in many sizes
            self._buffers[rows] = made
        return made

    def _before(self, kept: Buffers) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        embedded = self.norm_embedding(self.embedding[kept.following])
        x = self.fc(torch.cat((embedded, self.norm_hidden(kept.hidden)), -1))
        return x, *self.attention.project(self.norm_in(x), self.rope, self.rope.at(kept.places))

    def _behind(self, kept: Buffers, x: Tensor, gate: Tensor | None) -> Tensor:
        x = x + self.attention.output(kept.attended, gate, x.dtype)
        y = self.norm_mid(x)
        rows = range(len(y)) if len(y) <= PADDED else None
        x = x + (self.mlp(y, rows=rows) if isinstance(self.mlp, MoE) else self.mlp(y))
        return self.norm(x)


def _run(key: Hashable, work: Callable[[], T]) -> T:
    return work()
