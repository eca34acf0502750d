"""The rotation is orthogonal at every head size, repeatable, and mixes what has structure."""

from __future__ import annotations

import pytest
import torch

from engine.codecs.rotation import rotation

SIZES = (24, 32, 64, 80, 96, 128, 256)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_orthogonal_but_not_symmetric(size: int) -> None:
    matrix = rotation(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), atol=1e-6, rtol=0)
    assert not torch.equal(matrix, matrix.T), "the way back is the transpose, not the matrix itself"


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_same_every_time_and_another_with_another_seed(size: int) -> None:
    assert torch.equal(rotation(size), rotation(size))
    assert not torch.equal(rotation(size), rotation(size, seed=1))


def test_the_signs_are_those_of_every_version() -> None:
    """A prefix that another process wrote must decode: the first column is the signs themselves."""
    signs = (rotation(64)[:, 0] > 0).int().tolist()
    assert "".join(map(str, signs)) == "0011000011001100010100100010010010111101011100011101011101011011"


@pytest.mark.parametrize("size", SIZES)
def test_no_entry_dominates(size: int) -> None:
    """Every coordinate of the result hears every coordinate of the input about equally."""
    assert rotation(size).abs().max() <= 2**0.5 / size**0.5 + 1e-6
