"""A drop of valid tool calls at one context length is told once, for that length; a sound rate is left alone."""

from __future__ import annotations

import random

import pytest

from detectors.drift.tool_validity import ToolValidity, probability_below
from detectors.finding import Grade


def test_the_posterior_is_the_beta_distribution() -> None:
    # Beta(1, 1) is uniform; Beta(2, 1) has the distribution function x^2, Beta(1, 3) has 1 - (1 - x)^3
    assert probability_below(0.3, 0, 0) == pytest.approx(0.3)
    assert probability_below(0.3, 1, 0) == pytest.approx(0.09)
    assert probability_below(0.3, 0, 2) == pytest.approx(1 - 0.7**3)
    assert probability_below(0.87, 5000, 5000) == pytest.approx(1.0)


def test_a_drop_is_told_once_and_for_its_bucket_alone() -> None:
    validity = ToolValidity()
    for _ in range(100):
        assert validity.feed(5, "mtp/full", 1000, True) is None
    found = [validity.feed(5, "mtp/full", 20_000, n % 2 == 0) for n in range(100)]
    told = [finding for finding in found if finding is not None]
    assert [(f.grade, f.detector, f.evidence["bucket"]) for f in told] == [(Grade.SUSPECT, "drift.tool_validity", 2)]
    assert found.index(told[0]) < 15


def test_it_can_be_told_again_after_a_recovery() -> None:
    validity = ToolValidity()
    rounds = [False] * 10 + [True] * 300 + [False] * 60
    assert sum(validity.feed(0, "m", 1, valid) is not None for valid in rounds) == 2


def test_a_sound_rate_is_left_alone() -> None:
    rng, told = random.Random(1), 0
    for _ in range(40):
        validity = ToolValidity()
        told += sum(validity.feed(0, "m", 1, rng.random() < 0.97) is not None for _ in range(300))
    assert told <= 1
