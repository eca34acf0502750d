"""The multi-token-prediction head in Qwen's layout, with its own KV cache.

Must not: touch the target's caches. Its numbers influence drafts only, never the output.
Invariant: slot p of its cache holds (token p+1, target hidden state p). Inputs are POST-final-norm hidden states, the
embedding half comes first, and a chained step feeds back the post-`mtp.norm` state (five projects got this wrong and
lost 2 to 6 points of acceptance: llama.cpp #24025, LightLLM #1402).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.attention import Attention, AttentionBlock
from engine.config import ModelConfig
from engine.kv import KVCache
from engine.layers import Linear, Norm, Rope
from engine.moe import feed_forward
from engine.weights import Weights

Following = Sequence[int] | Tensor


PADDED = 8
"""Slots are filled in multiples of so many rows, so that a slot has the same bits whatever it was filled together
with; slots of a chain are thrown away and need no padding."""


class MtpHead:
    """One re-applied full-attention layer; embedding and lm_head are the target's."""

    def __init__(
        self, weights: Weights, config: ModelConfig, embedding: Tensor, head: Linear, rope: Rope, dtype: torch.dtype
    ) -> None:
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
        Returns (state [1, H], logits [1, V] fp32) of the last slot: the first draft.
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
        real = hidden.shape[0]
        rows = -(-real // multiple) * multiple
        if not isinstance(following, Tensor):
            following = torch.tensor(list(following), device=hidden.device)
        if rows > real:
            hidden = F.pad(hidden, (0, 0, 0, rows - real))
            following = F.pad(following, (0, rows - real))
        embedded = self.embedding[following]
        x = self.fc(torch.cat((self.norm_embedding(embedded), self.norm_hidden(hidden)), -1))
        angles = self.rope.angles(position, rows)
        block = AttentionBlock(cache, position, slice(0, real))
        x = x + self.attention(self.norm_in(x), self.rope, angles, block)
        x = x + self.mlp(self.norm_mid(x))
        return self.norm(x)[:real]
