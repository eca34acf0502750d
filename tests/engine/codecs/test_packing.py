"""Packed codes come back as they were, in the promised order, at every head size."""

from __future__ import annotations

import pytest
import torch

from engine.codecs.packing import PER_CELL, cell_table, cells_into, coordinate_order, pack, packed_bytes

DIMS = (24, 64, 80, 96, 128, 256)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bits", PER_CELL)
def test_round_trip(bits: int, dim: int) -> None:
    codes = torch.randint(2**bits, (5, 2, dim), generator=torch.Generator().manual_seed(bits), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape[-1] == packed_bytes(bits, dim) == dim * bits // 8
    cells = torch.empty(5, 2, dim // PER_CELL[bits], dtype=torch.int32)
    cells_into(packed, bits, cells)
    looked_up = cell_table(torch.arange(2**bits).float(), bits)[cells].flatten(-2)
    assert torch.equal(looked_up, codes[..., coordinate_order(bits, dim)].float())


def test_the_layout_is_the_documented_one() -> None:
    """Four bits: low halves first. Three bits: low bytes of 12-bit cells, then their upper nibbles."""
    codes = torch.arange(16, dtype=torch.uint8)
    assert pack(codes, 4).tolist() == [i | (i + 8) << 4 for i in range(8)]
    codes = torch.arange(8, dtype=torch.uint8)
    cells = [i | (i + 2) << 3 | (i + 4) << 6 | (i + 6) << 9 for i in range(2)]
    assert pack(codes, 3).tolist() == [cells[0] & 255, cells[1] & 255, cells[0] >> 8 | (cells[1] >> 8) << 4]


@pytest.mark.parametrize(("bits", "dim"), [(4, 12), (3, 20), (1, 64), (8, 64)])
def test_what_cannot_be_packed_is_refused(bits: int, dim: int) -> None:
    with pytest.raises(ValueError, match="cannot be packed"):
        packed_bytes(bits, dim)
