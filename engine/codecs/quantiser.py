"""One vector in few bits: rotated, coded, with one fp16 scale. Lloyd-Max for 2 to 4 bits, int8 for 8.

Must not: let one vector's codes depend on another vector, or on how many are coded together.
Invariant: rows are coded in blocks of 64, always; a product of another height may differ in its last bits.
Source of the scale: for y = rotated vector, c = its levels, |y|^2 / <y, c> makes <y, scale * c> = |y|^2 exactly, so
scores are unbiased at every width (EDEN, Vargaftik et al. 2108.08842).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.codecs import lloyd_max
from engine.codecs.packing import PER_CELL, cell_table, cells_into, coordinate_order, pack, packed_bytes
from engine.codecs.rotation import SEED, rotation

BLOCK = 64
LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, slots=True)
class Encoded:
    """Of rows of vectors [rows, heads, d]. codes: [rows, heads, bytes]; scale: fp16 [rows, heads].

    cosine: fp32 [rows, heads], <y, c> of the unit vectors, about 1 - distortion where the rotation has done its work;
    1 for a zero vector. NaN or infinity in a vector gives a scale that is not finite.
    """

    codes: Tensor
    scale: Tensor
    cosine: Tensor


class Scratch:
    """Room for what is being read from codes; made once, used by all layers and sequences of a model in turn."""

    def __init__(self, device: torch.device) -> None:
        self._cells = torch.empty(0, dtype=torch.int32, device=device)
        # 16-byte elements, so that whatever type a table is looked up in finds it aligned
        self._values = torch.empty(0, dtype=torch.complex128, device=device)

    def cells(self, count: int) -> Tensor:
        """int32 [count]."""
        if self._cells.numel() < count:
            self._cells = self._cells.new_empty(count)
        return self._cells[:count]

    def values(self, count: int) -> Tensor:
        """fp32 [count]."""
        if self._values.numel() * 4 < count:
            self._values = self._values.new_empty(-(-count // 4))
        return self._values.view(torch.float32)[:count]

    def tensors(self) -> tuple[Tensor, Tensor]:
        return self._cells, self._values


class Quantiser(Protocol):
    """bits: per coordinate; width, dtype: of a packed vector. turn: fp32 [d, d], the rotation; rotate: the same, into
    the order in which `decode` hands coordinates out."""

    @property
    def bits(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def turn(self) -> Tensor: ...
    @property
    def rotate(self) -> Tensor: ...

    def encode_block(self, x: Tensor) -> Encoded:
        """x: fp32 [64, heads, d]."""

    def decode(self, codes: Tensor, scratch: Scratch) -> Tensor:
        """codes: contiguous [.., bytes]. Returns fp32 [.., d] inside the scratch, rotated and without the scale."""


class LloydMax:
    """2, 3 or 4 bits."""

    dtype = torch.uint8

    def __init__(self, bits: int, dim: int, device: torch.device, seed: int = SEED) -> None:
        self.bits, self.dim = bits, dim
        self.width = packed_bytes(bits, dim)
        self.turn = rotation(dim, seed).to(device)
        self.rotate = self.turn[:, coordinate_order(bits, dim).to(device)].contiguous()
        self.levels = lloyd_max.levels(bits).to(device)
        self._boundaries = lloyd_max.boundaries(bits).to(device)
        # a row of the table is looked up as one element, four times as fast as copying it number by number
        element = torch.int64 if PER_CELL[bits] == 2 else torch.complex128
        self._table = cell_table(self.levels, bits).view(element).flatten()

    def encode_block(self, x: Tensor) -> Encoded:
        y = (x.reshape(-1, self.dim) @ self.turn).view(x.shape)
        energy = y.square().sum(-1)
        root = self.dim**0.5
        unit = y * (root / energy.sqrt().clamp_min(1e-30))[..., None]
        codes = torch.bucketize(unit, self._boundaries, out_int32=True, right=True)
        product = (unit * self.levels[codes]).sum(-1)
        # |y|^2 / <y, c>, both sides divided by |y|
        scale = energy.sqrt() * root / product.clamp_min(1e-30)
        scale = torch.where(energy == 0, 0.0, scale).clamp(max=LARGEST)
        cosine = torch.where(energy == 0, 1.0, product / self.dim)
        return Encoded(pack(codes.to(torch.uint8), self.bits), scale.half(), cosine)

    def decode(self, codes: Tensor, scratch: Scratch) -> Tensor:
        vectors = codes.numel() // self.width
        cells = scratch.cells(vectors * self.dim // PER_CELL[self.bits])
        cells_into(codes, self.bits, cells.view(*codes.shape[:-1], -1))
        values = scratch.values(vectors * self.dim)
        torch.index_select(self._table, 0, cells, out=values.view(self._table.dtype))
        return values.view(*codes.shape[:-1], self.dim)


class Int8:
    """8 bits: 127 even steps to the largest coordinate. Rotated all the same, so that there is one way through."""

    bits = 8
    dtype = torch.int8

    def __init__(self, dim: int, device: torch.device, seed: int = SEED) -> None:
        self.dim = self.width = dim
        self.rotate = self.turn = rotation(dim, seed).to(device)

    def encode_block(self, x: Tensor) -> Encoded:
        y = (x.reshape(-1, self.dim) @ self.rotate).view(x.shape)
        largest = y.abs().amax(-1)
        # infinity must stay visible, a number that fp16 cannot hold must not become it
        scale = torch.where(largest.isfinite(), (largest / 127).clamp(max=LARGEST), torch.nan).half()
        # divided by the scale as stored, so that its rounding costs nothing
        step = scale.float()
        codes = (y / step.clamp_min(1e-30)[..., None]).round().nan_to_num(0.0).clamp(-127, 127)
        restored = codes * step[..., None]
        norms = (y.square().sum(-1) * restored.square().sum(-1)).sqrt()
        cosine = torch.where(norms == 0, 1.0, (y * restored).sum(-1) / norms.clamp_min(1e-30))
        return Encoded(codes.to(torch.int8), scale, cosine)

    def decode(self, codes: Tensor, scratch: Scratch) -> Tensor:
        values = scratch.values(codes.numel()).view(codes.shape)
        return values.copy_(codes)


def quantiser(bits: int, dim: int, device: torch.device, seed: int = SEED) -> Quantiser:
    """Raises ValueError for a width or size that no codec has."""
    return Int8(dim, device, seed) if bits == 8 else LloydMax(bits, dim, device, seed)


def encode(codec: Quantiser, x: Tensor) -> Encoded:
    """x: [rows, heads, d] of any float type; any number of rows."""
    rows = x.shape[0]
    padded = F.pad(x.float(), (0, 0, 0, 0, 0, -rows % BLOCK))
    parts = [codec.encode_block(block) for block in torch.split(padded, BLOCK)]
    codes, scale, cosine = (
        torch.cat([getattr(part, name) for part in parts])[:rows] for name in ("codes", "scale", "cosine")
    )
    return Encoded(codes, scale, cosine)
