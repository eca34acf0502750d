"""The tables satisfy Lloyd's two conditions under the normal law, and have the distortion that is known for them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from engine.codecs.lloyd_max import POSITIVE, boundaries, levels

# Max 1960, table I; the paper's 0.03 and 0.009 are these numbers cut short.
KNOWN = {1: 0.363380, 2: 0.117482, 3: 0.034548, 4: 0.009501}


def density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if math.isfinite(x) else 0.0


def above(x: float) -> float:
    return 0.5 * math.erfc(x / math.sqrt(2))


@pytest.mark.parametrize("bits", POSITIVE)
def test_every_level_is_the_mean_of_its_cell(bits: int) -> None:
    table = POSITIVE[bits]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(table)), math.inf]
    for level, low, high in zip(table, edges, edges[1:], strict=False):
        assert level == pytest.approx((density(low) - density(high)) / (above(low) - above(high)), abs=1e-12)


@pytest.mark.parametrize("bits", POSITIVE)
def test_the_distortion_is_the_known_one(bits: int) -> None:
    """At a fixed point of Lloyd's conditions the distortion is 1 - E[level^2]."""
    table = POSITIVE[bits]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(table)), math.inf]
    power = sum(2 * c * c * (above(a) - above(b)) for c, a, b in zip(table, edges, edges[1:], strict=False))
    assert 1 - power == pytest.approx(KNOWN[bits], abs=1e-6)
    assert 4.0**-bits <= 1 - power <= math.sqrt(3) * math.pi / 2 * 4.0**-bits


@pytest.mark.parametrize("bits", POSITIVE)
def test_tables_are_symmetric_and_in_order(bits: int) -> None:
    table = levels(bits)
    assert len(table) == 2**bits
    assert torch.equal(table, -table.flip(0))
    assert (table.diff() > 0).all()
    assert torch.equal(boundaries(bits), (table[1:] + table[:-1]) / 2)
    assert boundaries(bits)[2 ** (bits - 1) - 1] == 0
