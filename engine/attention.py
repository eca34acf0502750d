"""Full attention, with or without an output gate, with one tile path for decode, verify and prefill.

Must not: use a kernel whose result for a row depends on how many rows or keys stand beside it.
Invariant: a fully masked tile is an exact no-op, tiles are summed in an order that their positions alone decide, and
all products have fixed shapes; so a row's bits do not depend on its index in the block, on the other rows, or on how
far the cache extends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.code_attention import attend_codes, raw_parts
from engine.compressed import Cache, CompressedCache
from engine.config import ModelConfig
from engine.kv import TILE
from engine.layers import Angles, Linear, Norm, Rope
from engine.softmax import row_positions, spread_queries
from engine.weights import Weights

SCRATCH_ROWS = 256
"""Query rows times tiles that are computed together, so that the scores stay in the processor's cache: 32 tiles in a
step of 8 rows, 2 in a prefill chunk of 128."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """The rows of one sequence in a forward: they stand at absolute positions position.. of `cache`.

    real: the rows that count; those outside are padding and are not stored. visible_from: first KV position that may
    be seen; occupied: first rows that are not stored, because their slots are taken to be full already (both 0 unless a
    fault is planted).
    """

    cache: Cache
    position: int
    real: slice
    visible_from: int = 0
    occupied: int = 0


class Attention:
    """Grouped-query attention with q/k norm and partial RoPE; `gated`: a sigmoid output gate (Qwen3-Next, Qwen3.5)."""

    def __init__(self, weights: Weights, prefix: str, config: ModelConfig, dtype: torch.dtype) -> None:
        hidden, dim = config.hidden_size, config.head_dim
        self.q_dim, self.kv_dim = config.num_heads * dim, config.num_kv_heads * dim
        self.heads, self.kv_heads, self.dim = config.num_heads, config.num_kv_heads, dim
        self.gated = config.gated
        self.first_dim = 2 * self.q_dim if self.gated else self.q_dim
        self.qkv = Linear(
            torch.cat(
                [
                    weights.take(f"{prefix}q_proj.weight", (self.first_dim, hidden), dtype),
                    weights.take(f"{prefix}k_proj.weight", (self.kv_dim, hidden), dtype),
                    weights.take(f"{prefix}v_proj.weight", (self.kv_dim, hidden), dtype),
                ]
            )
        )
        self.out = Linear(weights.take(f"{prefix}o_proj.weight", (hidden, self.q_dim), dtype))
        eps, centred = config.rms_norm_eps, config.zero_centred
        self.q_norm = Norm(weights.take(f"{prefix}q_norm.weight", (dim,), dtype), eps, zero_centred=centred)
        self.k_norm = Norm(weights.take(f"{prefix}k_norm.weight", (dim,), dtype), eps, zero_centred=centred)

    def __call__(self, x: Tensor, rope: Rope, angles: Angles, block: AttentionBlock) -> Tensor:
        """x: [rows, hidden] of one sequence. Returns [rows, hidden]."""
        q, k, v, gate = self.project(x, rope, angles)
        out = torch.empty(x.shape[0], self.q_dim, device=x.device)
        self.attend(q, k, v, [block], out)
        return self.output(out, gate, x.dtype)

    def project(self, x: Tensor, rope: Rope, angles: Angles) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x: [rows, hidden]. Returns queries [rows, heads, d], keys and values [rows, kv_heads, d], and the gate
        [rows, heads * d] before its sigmoid, if there is one."""
        rows = x.shape[0]
        first, k, v = torch.split(self.qkv(x), [self.first_dim, self.kv_dim, self.kv_dim], dim=-1)
        # with a gate, each head's queries are followed by its gate
        q, gate = torch.tensor_split(first.view(rows, self.heads, -1), [self.dim], dim=-1)
        k, v = k.view(rows, self.kv_heads, self.dim), v.view(rows, self.kv_heads, self.dim)
        q, k = rope.rotate(self.q_norm(q), angles), rope.rotate(self.k_norm(k), angles)
        return q, k, v, gate.reshape(rows, -1) if self.gated else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[AttentionBlock], out: Tensor) -> None:
        """Stores the blocks' keys and values and attends to each block's own cache; out: fp32 [rows, heads * d].

        The rows are made of one equally tall block per sequence.
        """
        height = q.shape[0] // len(blocks)
        for index, block in enumerate(blocks):
            at = index * height
            real, end = block.real, block.position + height
            first_row = min(real.start + block.occupied, real.stop)
            block.cache.write(
                block.position + first_row,
                k[at + first_row : at + real.stop],
                v[at + first_row : at + real.stop],
                clear=height - real.stop,
            )
            out[at : at + height] = attend(q[at : at + height], block.cache, block.position, end, block.visible_from)

    def output(self, out: Tensor, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
        """From what was attended to [rows, heads * d] to what is added to the residual stream [rows, hidden]."""
        if gate is not None:
            out = out * torch.sigmoid(gate.float())
        return self.out(out.to(dtype))


def attend(q: Tensor, cache: Cache, position: int, end: int, visible_from: int = 0) -> Tensor:
    """Causal attention: softmax over groups of tiles, combined online.

    q: [rows, heads, dim] at absolute positions position..; keys up to `end`. Returns fp32 [rows, heads * dim].
    """
    if isinstance(cache, CompressedCache):
        return attend_codes(q, cache, position, SCRATCH_ROWS, visible_from)
    rows = q.shape[0]
    query = spread_queries(q, cache.heads)
    at = row_positions(position, rows, query.shape[1] // rows, q.device)
    tiles, size = -(-end // TILE), max(SCRATCH_ROWS // rows, 1)
    parts = raw_parts(query, cache, 0, min(size, tiles), at, visible_from)
    for first in range(size, tiles, size):
        parts = parts.and_then(raw_parts(query, cache, first, min(first + size, tiles), at, visible_from))
    return parts.output(rows)
