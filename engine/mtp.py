"""The multi-token-prediction head in Qwen's layout, with its own KV cache.

Must not: touch the target's caches. Its numbers influence drafts only, never the output.
Invariant: slot p of its cache holds (token p+1, target hidden state p). Inputs are POST-final-norm hidden states, the
embedding half comes first, and a chained step feeds back the post-`mtp.norm` state (five projects got this wrong and
lost 2 to 6 points of acceptance: llama.cpp #24025, LightLLM #1402).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.attention import Attention, AttentionBlock
from engine.config import ModelConfig
from engine.kv import KVCache
from engine.layers import Linear, Norm, Rope
from engine.moe import feed_forward
from engine.weights import Weights


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
    def fill(self, cache: KVCache, position: int, following: Sequence[int], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Writes slots position.. from target hidden states [n, H] and the tokens that follow them.

        Returns (state [1, H], logits [1, V] fp32) of the last slot: the first draft.
        """
        x = self._forward(cache, position, following, hidden)[-1:]
        return x, self.head(x).float()

    def step(self, cache: KVCache, position: int, token: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """One chained draft: slot `position` from the drafted token and the state before it; as `fill`."""
        return self.fill(cache, position, [token], state)

    def _forward(self, cache: KVCache, position: int, following: Sequence[int], hidden: Tensor) -> Tensor:
        rows = hidden.shape[0]
        embedded = self.embedding[torch.tensor(list(following), device=hidden.device)]
        x = self.fc(torch.cat((self.norm_embedding(embedded), self.norm_hidden(hidden)), -1))
        angles = self.rope.angles(position, rows)
        block = AttentionBlock(cache, position, slice(0, rows))
        x = x + self.attention(self.norm_in(x), self.rope, angles, [block])
        x = x + self.mlp(self.norm_mid(x))
        return self.norm(x)
