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
from engine.softmax import Sight, spread_queries
from engine.weights import Weights

SCRATCH_ROWS = 256
"""Query rows times tiles that are computed together, so that the scores stay in the processor's cache: 32 tiles in a
step of 8 rows, 2 in a prefill chunk of 128."""


@dataclass(frozen=True, slots=True)
class AttentionBlock:
    """The rows of one sequence in a forward: they stand at absolute positions position.. of `cache`.

    real: the rows that count; those outside are padding and are not stored. visible_from: first KV position that may
    be seen; occupied: first rows that are not stored, because their slots are taken to be full already (both 0 unless a
    fault is planted). sight: shared by the layers of a forward.
    """

    cache: Cache
    position: int
    real: slice
    visible_from: int = 0
    occupied: int = 0
    sight: Sight | None = None


class Attention:
    """Grouped-query attention with q/k norm and partial RoPE; `gated`: a sigmoid output gate (Qwen3-Next, Qwen3.5)."""

    def __init__(self, weights: Weights, prefix: str, config: ModelConfig, dtype: torch.dtype) -> None:
        hidden, dim = config.hidden_size, config.head_dim
        self.q_dim, self.kv_dim = config.num_heads * dim, config.num_kv_heads * dim
        self.heads, self.kv_heads, self.dim = config.num_heads, config.num_kv_heads, dim
        self.gated = config.gated
        # with a gate, each head's queries are followed by its gate
        wide = weights.take(f"{prefix}q_proj.weight", (self.q_dim * (2 if self.gated else 1), hidden), dtype)
        queries, gates = torch.tensor_split(wide.view(self.heads, -1, hidden), [dim], dim=1)
        keys, values = (
            weights.take(f"{prefix}{name}_proj.weight", (self.kv_dim, hidden), dtype) for name in ("k", "v")
        )
        parts = [queries.reshape(-1, hidden), keys, values, gates.reshape(-1, hidden)]
        self.splits = [self.q_dim + self.kv_dim, self.kv_dim, self.q_dim if self.gated else 0]
        self.project_all = Linear(torch.cat(parts))
        self.out = Linear(weights.take(f"{prefix}o_proj.weight", (hidden, self.q_dim), dtype))
        eps, centred = config.rms_norm_eps, config.zero_centred
        norms = [Norm(weights.take(f"{prefix}{n}_norm.weight", (dim,), dtype), eps, zero_centred=centred) for n in "qk"]
        self.norm = Norm.of_heads(list(zip(norms, (self.heads, self.kv_heads), strict=True)))

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
        both, v, gate = torch.split(self.project_all(x), self.splits, dim=-1)
        both = rope.rotate(self.norm(both.view(rows, -1, self.dim)), angles)
        q, k = both[:, : self.heads], both[:, self.heads :]
        return q, k, v.view(rows, self.kv_heads, self.dim), gate if self.gated else None

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
            seen = (block.visible_from, block.sight)
            out[at : at + height] = attend(q[at : at + height], block.cache, block.position, end, *seen)

    def output(self, out: Tensor, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
        """From what was attended to [rows, heads * d] to what is added to the residual stream [rows, hidden]."""
        if gate is not None:
            out = out * torch.sigmoid(gate.float())
        return self.out(out.to(dtype))


def attend(
    q: Tensor, cache: Cache, position: int, end: int, visible_from: int = 0, sight: Sight | None = None
) -> Tensor:
    """Causal attention: softmax over groups of tiles, combined online.

    q: [rows, heads, dim] at absolute positions position..; keys up to `end`; sight: what the rows see, where other
    layers of the same forward have asked too. Returns fp32 [rows, heads * dim].
    """
    if isinstance(cache, CompressedCache):
        return attend_codes(q, cache, position, SCRATCH_ROWS, visible_from)
    rows = q.shape[0]
    query = spread_queries(q, cache.heads)
    sight = sight or Sight(position, rows, query.shape[1] // rows, q.device, visible_from)
    tiles, size = -(-end // TILE), max(SCRATCH_ROWS // rows, 1)
    parts = raw_parts(query, cache, 0, min(size, tiles), sight.hidden(0, min(size, tiles)))
    for first in range(size, tiles, size):
        last = min(first + size, tiles)
        parts = parts.and_then(raw_parts(query, cache, first, last, sight.hidden(first, last)))
    return parts.output(rows)
