"""The rule by which a soak run is judged: a planted leak is seen through the noise, noise alone is not."""

from __future__ import annotations

import random

import pytest

from tests.soak.curve import growth, slope, sparkline

ROUNDS = 15


def run(per_round: float, noise: float, seed: int, warm_up: float = 0.0) -> list[tuple[float, float]]:
    """Samples about 1000 that grow by `per_round`, after a warm-up from so much less."""
    draw = random.Random(seed)
    return [
        (120.0 * i, 1000 - (warm_up if i < 3 else 0) + per_round * i + draw.uniform(-noise, noise))
        for i in range(ROUNDS)
    ]


def test_the_slope_of_a_line_is_found_and_outliers_do_not_move_it() -> None:
    line = [(float(x), 3.0 * x + 1) for x in range(20)]
    assert slope(line) == pytest.approx(3.0)
    assert slope([*line[:10], (10.0, 9999.0), *line[11:]]) == pytest.approx(3.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_is_seen_through_noise_and_noise_is_no_leak(seed: int) -> None:
    """The shares that the soak test goes by: 5 % for memory, 2 % for Python's blocks."""
    assert growth(run(0, 20, seed, warm_up=700)).share < 0.05
    assert growth(run(10, 20, seed, warm_up=700)).share > 0.05
    assert growth(run(0, 5, seed)).share < 0.02
    assert growth(run(4, 5, seed)).share > 0.02


def test_growth_is_told_by_the_hour() -> None:
    found = growth([(0.0, 100.0), (1800.0, 101.0), (3600.0, 102.0)], warm_up=0)
    assert (found.median, found.added, found.per_hour) == (101.0, pytest.approx(2.0), pytest.approx(2.0))


def test_a_sparkline_shows_where_it_went() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], width=8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5, 5]) == "▁▁▁"
    assert len(sparkline(list(range(1000)), width=60)) == 60
