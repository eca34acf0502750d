"""Compressed caches for tests, and what is in them, read by code that shares nothing with the engine's reader.

Must not: use engine.code_attention, or the tables of cells.
Invariant: `dense` returns for a query position the keys and values that the documented rule says it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.codecs import lloyd_max
from engine.codecs.quantiser import Scratch, quantiser
from engine.codecs.rotation import rotation
from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache, Layout
from engine.kernels.switch import Kernels

CPU = torch.device("cpu")
HEADS, DIM, WINDOW = 2, 64, 128


def layout(codec: str = "k4v4", dim: int = DIM, dtype: torch.dtype = torch.float32, window: int = WINDOW) -> Layout:
    spec = SPECS[codec]
    keys, values = (quantiser(bits, dim, CPU) for bits in (spec.key_bits, spec.value_bits))
    return Layout(codec, spec.header, HEADS, dim, dtype, CPU, window, keys, values, Scratch(CPU), Kernels.of(CPU))


@dataclass(frozen=True, slots=True)
class Rows:
    """keys, values: [rows, HEADS, dim]; a bias on the keys as some models have it."""

    keys: Tensor
    values: Tensor

    def write(self, cache: CompressedCache, start: int, end: int, clear: int = 0) -> None:
        cache.write(start, self.keys[start:end], self.values[start:end], clear)

    def fill(self, cache: CompressedCache, end: int, step: int = 100) -> None:
        """Commits rows 0..end-1, `step` at a time, cut at the edges of prefill chunks."""
        start = 0
        while start < end:
            stop = min(start + step, (start // WINDOW + 1) * WINDOW, end)
            self.write(cache, start, stop)
            cache.settle(stop)
            start = stop


def drawn(count: int, seed: int = 0, dim: int = DIM, bias: float = 0.0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(count, HEADS, dim, generator=generator) for _ in range(2))
    return Rows(keys + bias * torch.randn(HEADS, dim, generator=generator), values)


def unpacked(packed: Tensor, bits: int, dim: int) -> Tensor:
    """Codes [.., dim], bit by bit from the documented layout."""
    if bits == 8:
        return packed
    raw = packed.int()
    if bits == 3:
        quarter = dim // 4
        upper = torch.cat((raw[..., quarter:] & 15, raw[..., quarter:] >> 4), -1)
        cells = raw[..., :quarter] | upper << 8
        return torch.cat([cells >> 3 * i & 7 for i in range(4)], -1)
    return torch.cat([raw >> bits * i & 2**bits - 1 for i in range(8 // bits)], -1)


def decoded(codes: Tensor, scale: Tensor, bits: int, dim: int) -> Tensor:
    """fp64 vectors [.., dim]."""
    symbols = unpacked(codes, bits, dim)
    levels = symbols.double() if bits == 8 else lloyd_max.levels(bits).double()[symbols.long()]
    return (levels * scale.double()[..., None]) @ rotation(dim).double().T


def dense(cache: CompressedCache, rows: Rows, position: int) -> tuple[Tensor, Tensor]:
    """fp64 keys and values [HEADS, position + 1, dim] as the row at `position` must see them."""
    edge, spec, dim = position // 64 * 64, SPECS[cache.codec], cache.layout.dim
    keys, values = (x[: position + 1].double().transpose(0, 1).clone() for x in (rows.keys, rows.values))
    if edge:
        stored = [x.transpose(0, 1).flatten(1, 2)[:, 4:edge] for x in (cache.key_codes, cache.value_codes)]
        scales = [x.transpose(0, 1).flatten(1, 2)[:, 4:edge] for x in (cache.key_scale, cache.value_scale)]
        mean = rows.keys[4:64].double().mean(0)
        keys[:, 4:edge] = decoded(stored[0], scales[0], spec.key_bits, dim) + mean[:, None]
        values[:, 4:edge] = decoded(stored[1], scales[1], spec.value_bits, dim)
    return keys, values


def expected(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """fp64 softmax attention of one query row [heads, dim]; [heads * dim]."""
    groups = q.shape[0] // HEADS
    keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
    scores = (keys @ q.double()[..., None])[..., 0] * q.shape[-1] ** -0.5
    return (scores.softmax(-1)[:, None] @ values)[:, 0].flatten()
