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

from engine.config import ModelConfig
from engine.kv import TILE, KVCache
from engine.layers import Linear, Norm, Rope
from engine.weights import Weights

SCRATCH_ROWS = 256
"""Query rows times tiles that are computed together, so that the scores stay in the processor's cache: 32 tiles in a
step of 8 rows, 2 in a prefill chunk of 128."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """The rows of one sequence in a forward: they stand at absolute positions position.. of `cache`.

    real: the rows that count; those outside are padding and are not stored. visible_from: first KV position that may
    be seen (0 unless a fault is planted).
    """

    cache: KVCache
    position: int
    real: slice
    visible_from: int = 0


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

    def __call__(
        self, x: Tensor, rope: Rope, angles: tuple[Tensor, Tensor], blocks: Sequence[AttentionBlock]
    ) -> Tensor:
        """x: [rows, hidden], made of one equally tall block of rows per sequence. Returns [rows, hidden].

        The projections take all rows at once; each block attends to its own cache alone.
        """
        rows = x.shape[0]
        mixed = self.qkv(x)
        first, k, v = torch.split(mixed, [self.first_dim, self.kv_dim, self.kv_dim], dim=-1)
        # with a gate, each head's queries are followed by its gate
        q, gate = torch.tensor_split(first.view(rows, self.heads, -1), [self.dim], dim=-1)
        k, v = k.view(rows, self.kv_heads, self.dim), v.view(rows, self.kv_heads, self.dim)
        q = rope.rotate(self.q_norm(q), angles)
        k = rope.rotate(self.k_norm(k), angles)
        height = rows // len(blocks)
        parts = []
        for index, block in enumerate(blocks):
            at = index * height
            real, end = block.real, block.position + height
            block.cache.write(
                block.position + real.start,
                k[at + real.start : at + real.stop],
                v[at + real.start : at + real.stop],
                clear=height - real.stop,
            )
            parts.append(attend(q[at : at + height], block.cache, block.position, end, block.visible_from))
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.gated:
            out = out * torch.sigmoid(gate.reshape(rows, -1).float())
        return self.out(out.to(x.dtype))


def attend(q: Tensor, cache: KVCache, position: int, end: int, visible_from: int = 0) -> Tensor:
    """Causal attention: softmax over groups of tiles, combined online (Milakov and Gimelshein 1805.02867).

    q: [rows, heads, dim] at absolute positions position..; keys up to `end`. Returns fp32 [rows, heads * dim].
    """
    rows, heads, dim = q.shape
    kv_heads = cache.heads
    groups = heads // kv_heads
    # [kv_heads, groups * rows, dim]: every row of queries that shares a key head in one product
    query = q.float().view(rows, kv_heads, groups, dim).permute(1, 2, 0, 3).reshape(kv_heads, groups * rows, dim)
    query = query * dim**-0.5
    at = torch.arange(position, position + rows, device=q.device).repeat(groups)[None, None, :, None]
    tiles, size = -(-end // TILE), max(SCRATCH_ROWS // rows, 1)
    highest, total, mixed = _group(query, cache, 0, min(size, tiles), at, visible_from)
    for first in range(size, tiles, size):
        higher, new_total, new_mixed = _group(query, cache, first, min(first + size, tiles), at, visible_from)
        top = torch.maximum(highest, higher)
        # padding rows may see nothing at all; they are dropped, but must not spread NaN
        base = top.masked_fill(top == -torch.inf, 0.0)
        keep, take = torch.exp(highest - base), torch.exp(higher - base)
        total, mixed, highest = total * keep + new_total * take, mixed * keep + new_mixed * take, top
    out = mixed / total.clamp_min(torch.finfo(torch.float32).tiny)
    return out.view(kv_heads, groups, rows, dim).permute(2, 0, 1, 3).reshape(rows, heads * dim)


def _group(
    query: Tensor, cache: KVCache, first: int, last: int, at: Tensor, visible_from: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax parts over the tiles first..last-1: highest score, sum of weights, weighted values, per query row.

    One batch of equal products, a tile and a key head each, so that no product's shape depends on the context.
    """
    count, (kv_heads, queries, dim) = last - first, query.shape
    keys, values = (x.view(count * kv_heads, TILE, dim) for x in cache.tiles(first, last))
    spread = query.expand(count, kv_heads, queries, dim).reshape(count * kv_heads, queries, dim)
    scores = torch.bmm(spread, keys.transpose(1, 2)).view(count, kv_heads, queries, TILE)
    seen = torch.arange(first * TILE, last * TILE, device=query.device).view(count, 1, 1, TILE)
    hidden = seen > at
    if visible_from:
        hidden |= seen < visible_from
    scores = scores.masked_fill(hidden, -torch.inf)
    highest = scores.amax((0, 3), keepdim=True)
    weights = torch.exp(scores - highest.masked_fill(highest == -torch.inf, 0.0))
    mixed = torch.bmm(weights.view(count * kv_heads, queries, TILE), values).view(count, kv_heads, queries, dim)
    return highest[0], _folded(weights.sum(-1, keepdim=True)), _folded(mixed)


def _folded(parts: Tensor) -> Tensor:
    """Sums the first dimension by folding halves onto each other. The halves are those of a power of two, so further
    parts that are zero (tiles that a row cannot see) change no bit of the sum."""
    width = 1 << (parts.shape[0] - 1).bit_length()
    while width > 1:
        width //= 2
        if parts.shape[0] > width:
            rest = parts.shape[0] - width
            parts = torch.cat((parts[:rest] + parts[width:], parts[rest:width]))
    return parts[0]
