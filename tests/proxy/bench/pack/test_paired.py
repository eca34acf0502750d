"""The interval of a ratio of times: what it must hold, and when there is none."""

from __future__ import annotations

import random
from typing import Any

import pytest

from proxy.bench.pack.paired import ratio


def figures(*rounds: list[float]) -> dict[str, Any]:
    return {"w": {"timed": rounds}}


def noisy(rng: random.Random, true: float, spread: float, steps: int = 20) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two rounds of steps of very different lengths; the second mode takes `true` of the first one's time."""
    lengths = [rng.uniform(0.2, 5.0) for _ in range(steps)]
    plain = [[each * rng.gauss(1.0, spread) for each in lengths] for _ in range(2)]
    fast = [[each * true * rng.gauss(1.0, spread) for each in lengths] for _ in range(2)]
    return figures(*fast), figures(*plain)


def test_equal_modes_are_rarely_told_apart_and_different_ones_nearly_always() -> None:
    rng = random.Random(7)
    alike = [ratio(*noisy(rng, 1.0, 0.1)) for _ in range(100)]
    apart = [ratio(*noisy(rng, 0.8, 0.1)) for _ in range(100)]
    assert sum(each is not None and each.is_less for each in alike) <= 6
    assert sum(each is not None and each.is_less for each in apart) >= 95
    held = [each is not None and each.low <= 0.8 <= each.high for each in apart]
    assert sum(held) >= 88


def test_pairs_are_told_apart_where_sums_would_not_be() -> None:
    """Steps differ a hundredfold from each other, and each takes the same part less."""
    lengths = [0.1 * 2**n for n in range(8)]
    found = ratio(figures(*[[0.9 * each for each in lengths]] * 2), figures(lengths, lengths))
    assert found is not None and (found.value, found.low, found.high) == pytest.approx((0.9, 0.9, 0.9))


def test_it_is_no_narrower_than_the_rounds() -> None:
    found = ratio(figures([1.0] * 9, [3.0] * 9), figures([2.0] * 9, [2.0] * 9))
    assert found is not None and (found.value, found.low, found.high) == (1.0, 0.5, 1.5)


def test_of_one_step_the_rounds_are_drawn() -> None:
    found = ratio(figures([1.0], [2.0], [3.0]), figures([2.0], [2.0], [2.0]))
    assert found is not None and found.value == 1.0 and found.low == 0.5 and found.high == 1.5


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (figures([1.0]), figures([1.0])),
        (figures([1.0], [1.0]), figures([1.0])),
        (figures([1.0, 1.0], [1.0]), figures([1.0, 1.0], [1.0, 1.0])),
        ({"w": {}}, {"w": {}}),
        (figures([1.0], [1.0]), {"v": {"timed": [[1.0], [1.0]]}}),
        ({}, {}),
    ],
)
def test_without_repeats_there_is_none(own: dict[str, Any], other: dict[str, Any]) -> None:
    assert ratio(own, other) is None


def test_a_round_that_was_stopped_is_left_out() -> None:
    whole = {"v": {"timed": [[1.0, 1.0]] * 3}, "w": {"timed": [[2.0, 2.0]] * 2}}
    half = {"v": {"timed": [[2.0, 2.0]] * 3}, "w": {"timed": [[4.0, 4.0]] * 2}}
    found = ratio(whole, half)
    assert found is not None and (found.low, found.high) == (0.5, 0.5)


def test_the_same_times_give_the_same_interval() -> None:
    own, other = noisy(random.Random(3), 0.9, 0.2)
    assert ratio(own, other) == ratio(own, other)
