"""Sound codes give back what was written, within a hair; what other people's writers got wrong shows at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.codecs.quantiser import Scratch, encode, quantiser
from engine.codecs.rotation import rotation
from engine.read_back import HEAD_OFF, VECTOR_OFF, read_back

CPU = torch.device("cpu")


def vectors(dim: int, kind: str = "plain") -> Tensor:
    x = torch.randn(64, 2, dim, generator=torch.Generator().manual_seed(dim))
    match kind:
        case "two outliers":
            x[..., :2] *= 60
        case "heavy tails":
            x = x**3
        case "tiny":
            x = x * 1e-6
        case "huge":
            x = x * 1e4
        case "some zero":
            x[::3] = 0
        case "one axis":
            x[..., 1:] = 0
    return x


def off(bits: int, x: Tensor, *, scale: float = 1.0, turn: Tensor | None = None) -> list[float]:
    """What is found after `x`, turned, was written with a scale that is this much too large."""
    codec = quantiser(bits, x.shape[-1], CPU)
    stored = encode(codec, x if turn is None else x @ turn)
    found = read_back(codec, stored.codes.transpose(0, 1), (stored.scale * scale).T, x, Scratch(CPU))
    numbers: list[float] = found.tolist()
    return numbers


@pytest.mark.parametrize(
    "kind", ["plain", "two outliers", "heavy tails", "tiny", "huge", "some zero", "one axis"], ids=str.split
)
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_sound_codes_give_back_what_was_written(bits: int, dim: int, kind: str) -> None:
    head, vector = off(bits, vectors(dim, kind))
    assert head < HEAD_OFF / 4
    assert vector < VECTOR_OFF / 3


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_scale_that_is_off_by_a_hundredth_shows(bits: int) -> None:
    for factor in (0.99, 1.01, 1.05, 2**0.5):
        assert off(bits, vectors(64), scale=factor)[0] > HEAD_OFF


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_rotation_that_one_side_skips_shows(bits: int) -> None:
    head, vector = off(bits, vectors(64), turn=rotation(64).T)
    assert head > 0.3
    assert vector > 0.3


def test_one_bad_vector_among_good_ones_shows() -> None:
    x, codec = vectors(64), quantiser(4, 64, CPU)
    stored = encode(codec, x)
    codes = stored.codes.clone()
    codes[17, 1] = codes[18, 1]
    _, vector = read_back(codec, codes.transpose(0, 1), stored.scale.T, x, Scratch(CPU)).tolist()
    assert vector > VECTOR_OFF
    lost = stored.scale.clone()
    lost[17, 1] = 0
    assert read_back(codec, stored.codes.transpose(0, 1), lost.T, x, Scratch(CPU))[1] == 1.0


def test_what_is_no_number_is_left_to_the_count_of_those() -> None:
    x = vectors(64)
    x[3, 0, 5], x[4, 1, 6] = torch.nan, torch.inf
    for bits in (4, 8):
        head, vector = off(bits, x)
        assert head < HEAD_OFF
        assert vector < VECTOR_OFF


def test_nothing_but_zeros_is_no_fault() -> None:
    assert off(4, torch.zeros(64, 2, 64)) == [0.0, 0.0]
