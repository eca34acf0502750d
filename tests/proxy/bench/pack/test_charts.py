"""The drawings: axes end at round numbers, labels stand apart, every mode has a look of its own."""

from __future__ import annotations

import pytest

from proxy.bench.pack.charts import COLOURS, DASHES, _above, _apart, _short, _stroke
from proxy.bench.pack.page import DARK, LIGHT


@pytest.mark.parametrize(
    ("value", "above"), [(0.0, 1.0), (0.3, 0.4), (1.0, 1.0), (7.1, 8.0), (99.0, 100.0), (1437.0, 2000.0), (8e6, 8e6)]
)
def test_an_axis_ends_at_a_round_number(value: float, above: float) -> None:
    assert _above(value) == pytest.approx(above) and _above(value) >= value


def test_numbers_of_an_axis_are_short() -> None:
    assert [_short(value) for value in (0.5, 50.0, 8000.0, 20000.0, 4e6)] == ["0.5", "50", "8000", "20k", "4M"]


def test_lengths_that_would_run_into_each_other_are_left_out() -> None:
    assert _apart([512, 600, 1024, 3072], lambda tokens: tokens / 8) == [3072, 1024, 600]
    assert _apart([600, 600], float) == [600]


def test_modes_are_told_apart_by_more_than_colour() -> None:
    modes = [str(number) for number in range(COLOURS)]
    assert len({_stroke(modes, mode) for mode in modes}) == COLOURS
    assert len({_stroke(modes, mode).partition("dasharray")[2] for mode in modes[: len(DASHES)]}) == len(DASHES)
    assert len(set(LIGHT)) == len(set(DARK)) == COLOURS
