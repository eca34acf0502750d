"""A second reading of compressed caches, to hold the fast one against: unpacked by shifts, one softmax over all keys.

Must not: share tables, chunks or masks with engine.code_attention; only the layout of the stored bytes is common.
Invariant: reads as the documented rule says: below the row's edge codes, but for the first rows; from it on raw rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.codecs import lloyd_max
from engine.codecs.spec import SINKS
from engine.compressed import CompressedCache

READING_OFF = 1e-3
"""Most distance between the two readings, as a share of the values' weighted length. fp32 sums in another order differ
by some 1e-6 (measured below 2e-6 up to 4,096 tokens)."""


@dataclass(slots=True)
class Probe:
    """Set on a cache before a step, it compares what the step's first row read. head: a key head; None = all."""

    head: int | None = None
    off: Tensor | None = None
    """fp32 scalar on the device, once the step has run."""

    @torch.inference_mode()
    def see(self, q: Tensor, cache: CompressedCache, position: int, out: Tensor) -> None:
        """q: [rows, heads, d]; out: fp32 [rows, heads * d], the attention of these rows; position: of the first."""
        heads = range(cache.heads) if self.head is None else (self.head,)
        groups = q.shape[1] // cache.heads
        for head in heads:
            at = slice(head * groups, (head + 1) * groups)
            clean, size = attended(q[0, at].float(), cache, head, position)
            off = ((out[0].view(q.shape[1], -1)[at] - clean).norm(dim=-1) / size.clamp_min(1e-30)).max()
            # NaN hides behind no maximum: torch's propagates it
            self.off = off if self.off is None else torch.maximum(self.off, off)


def attended(query: Tensor, cache: CompressedCache, head: int, position: int) -> tuple[Tensor, Tensor]:
    """Attention of queries fp32 [n, d] at one position over one key head.

    Returns ([n, d], the weighted sum of the values' lengths [n])."""
    edge, layout = cache.first_edge(position), cache.layout
    query = query * layout.dim**-0.5
    raw_keys, raw_values = _raw(cache, head, edge, position)
    scores = [query @ raw_keys.T]
    if edge:
        turned = query @ layout.keys.turn
        keys = _coded(cache.key_codes, cache.key_scale, layout.keys.bits, head, edge)
        values = _coded(cache.value_codes, cache.value_scale, layout.values.bits, head, edge)
        scores.append(turned @ keys.T + (query @ cache.mean[head])[:, None])
    weights = torch.cat(scores, -1).softmax(-1)
    near = weights[:, : len(raw_keys)]
    out, size = near @ raw_values, near @ raw_values.norm(dim=-1)
    if edge:
        far = weights[:, len(raw_keys) :]
        out = out + far @ values @ layout.values.turn.T
        size = size + far @ values.norm(dim=-1)
    return out, size


def _raw(cache: CompressedCache, head: int, edge: int, position: int) -> tuple[Tensor, Tensor]:
    """Keys and values [n, d] of the first rows, once they lie below the edge, and of those from the edge on."""
    window, first = cache.layout.window, min(SINKS, edge)
    pairs = []
    for index, raw in enumerate((cache.raw_keys, cache.raw_values)):
        if cache.tail is None:
            at = torch.arange(edge, position + 1, device=raw.device) % window + SINKS
            near = raw[head, at]
        else:
            near = cache.tail.committed(position + 1 - cache.coded)[index][head]
        pairs.append(torch.cat((raw[head, :first], near)).float())
    return pairs[0], pairs[1]


def _coded(codes: Tensor, scale: Tensor, bits: int, head: int, edge: int) -> Tensor:
    """fp32 [edge - SINKS, d]: rows SINKS..edge-1, rotated."""
    packed, scales = (x[:, head].flatten(0, 1)[SINKS:edge] for x in (codes, scale))
    symbols = _symbols(packed, bits)
    levels = symbols.float() if bits == 8 else lloyd_max.levels(bits).to(codes.device)[symbols.int()]
    return levels * scales.float()[:, None]


def _symbols(packed: Tensor, bits: int) -> Tensor:
    """Codes in the order of their coordinates, from the layout that engine.codecs.packing documents."""
    if bits == 8:
        return packed
    if bits == 3:
        quarter = packed.shape[-1] * 8 // 3 // 4
        upper = packed[..., quarter:].int()
        cells = torch.cat((upper & 15, upper >> 4), -1) << 8 | packed[..., :quarter]
        return torch.cat([cells >> shift & 7 for shift in range(0, 12, 3)], -1)
    return torch.cat([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)], -1)
