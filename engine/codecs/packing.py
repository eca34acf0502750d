"""Codes of 2, 3 and 4 bits packed into bytes, and the tables that turn packed codes into numbers again.

Must not: know what a code means.
Invariant: cell i of a vector holds the codes of the coordinates i, i + d/m, i + 2d/m, ..: m codes of `bits` bits,
the first one lowest. Cells of 4 and 2 bits are bytes; a cell of 3-bit codes has 12 bits, its low byte in one plane and
its upper four bits in another, so that no code lies across two bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

PER_CELL = {2: 4, 3: 4, 4: 2}
UNITS = (torch.int64, torch.int32, torch.int16, torch.uint8)
MULTIPLE = 8
"""What the number of coordinates must be a multiple of."""


def packed_bytes(bits: int, dim: int) -> int:
    """Bytes of one packed vector. Raises ValueError for sizes that leave a byte half used."""
    if bits not in PER_CELL or dim % MULTIPLE:
        raise ValueError(f"codec: {bits} bits and {dim} coordinates cannot be packed; 2 to 4 bits, a multiple of 8")
    return dim * bits // 8


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes: uint8 [.., d], each below 2**bits. Returns uint8 [.., d * bits / 8]."""
    per = PER_CELL[bits]
    parts = codes.to(torch.int32).reshape(*codes.shape[:-1], per, -1)
    shifts = torch.arange(0, per * bits, bits, device=codes.device, dtype=torch.int32)
    cells: Tensor = (parts << shifts[:, None]).sum(-2, dtype=torch.int32)
    if bits != 3:
        return cells.to(torch.uint8)
    half = cells.shape[-1] // 2
    upper = cells >> 8
    return torch.cat((cells & 255, upper[..., :half] | upper[..., half:] << 4), -1).to(torch.uint8)


def cells_into(packed: Tensor, bits: int, out: Tensor) -> None:
    """The cells of packed vectors [.., bytes] as int32 [.., d / m], ready to be looked up."""
    if bits != 3:
        out.copy_(packed)
        return
    # a plane's bytes are taken several at once: short rows of bytes cost more than what is computed on them
    half = out.shape[-1] // 2
    unit = next(kind for kind in UNITS if half % kind.itemsize == 0)
    planes = packed.view(unit)
    upper = planes[..., -(half // unit.itemsize) :]
    mask = int.from_bytes(bytes([15] * unit.itemsize), "little")
    out.copy_(torch.cat((upper & mask, upper >> 4 & mask), -1).view(torch.uint8))
    torch.add(packed[..., : 2 * half], out, alpha=256, out=out)


def cell_table(levels: Tensor, bits: int) -> Tensor:
    """fp32 [cells, m]: the levels of the codes in every possible cell."""
    per = PER_CELL[bits]
    cells = torch.arange(2 ** (bits * per), device=levels.device)
    return torch.stack([levels[cells >> bits * i & 2**bits - 1] for i in range(per)], -1)


def coordinate_order(bits: int, dim: int) -> Tensor:
    """int64 [d]: which coordinate stands at each place when cells are looked up one after the other."""
    per = PER_CELL[bits]
    return torch.arange(dim).view(per, dim // per).T.reshape(dim)
