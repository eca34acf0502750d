"""Draws that are what they claim are not convicted, whatever the text is like; biased ones are.

The text: entropy and acceptance follow an AR(1) process with coefficient .99, as content does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.drift.calibration import Calibration, ChangeTest, changed_odds, sharpness
from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade

SIZES = (2, 3, 5, 12)


def numbers(p: list[float]) -> tuple[list[float], float, float]:
    """Log-probabilities, entropy, variance."""
    logs = [math.log(each) for each in p]
    entropy = -sum(q * log for q, log in zip(p, logs, strict=True))
    return logs, entropy, sum(q * (log + entropy) ** 2 for q, log in zip(p, logs, strict=True))


def content(rng: random.Random, deviation: float) -> Iterator[float]:
    """AR(1), coefficient .99, stationary standard deviation as given."""
    x = rng.gauss(0, deviation)
    while True:
        yield x
        x = 0.99 * x + rng.gauss(0, deviation * math.sqrt(1 - 0.99**2))


def texts(rng: random.Random, deviation: float) -> Iterator[list[float]]:
    """A distribution per token; the text decides how sure the model is."""
    for x in content(rng, deviation):
        size = rng.choice(SIZES)
        weights = [math.exp(-math.exp(x) * 1.5 * rank) for rank in range(size)]
        total = sum(weights)
        yield [max(w / total, 1e-12) for w in weights]


def run(tokens: int, deviation: float, seed: int, bias: float = 0.0, settings: DriftSettings = DEFAULT) -> list[int]:
    """Positions of convictions. bias: share of tokens that are the likeliest one instead of a draw; drafts that are
    it are then accepted for that reason."""
    rng = random.Random(seed)
    calibration, convicted = Calibration(settings), []
    for position, p in zip(range(tokens), texts(rng, deviation), strict=False):
        draft = 0 if rng.random() < 0.7 else rng.randrange(len(p))
        token = 0 if rng.random() < bias else rng.choices(range(len(p)), p)[0]
        logs, entropy, variance = numbers(p)
        found: list[Finding | None] = [
            calibration.token(position, logs[token], entropy, variance),
            calibration.draft(position, p[draft], token == draft),
        ]
        convicted += [position for each in found if each is not None]
    return convicted


@pytest.mark.parametrize("deviation", [0.3, 1.0])
def test_content_alone_never_convicts(deviation: float) -> None:
    assert run(40_000, deviation, seed=3) == []


def test_the_bound_is_tight_enough_to_be_a_bound() -> None:
    """With a limit of 400 tokens, 20,000 draws may convict 3 * 20,000 / 400 = 150 times, and do so now and then."""
    settings = DriftSettings(calibration_tokens=400)
    found = run(20_000, 1.0, seed=4, settings=settings)
    assert 5 <= len(found) <= 150


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.3, 0.6, 1.0])
def test_at_most_one_false_conviction_in_a_million_tokens(deviation: float) -> None:
    assert len(run(1_000_000, deviation, seed=5)) <= 1


@pytest.mark.parametrize(("bias", "within"), [(1.0, 600), (0.5, 2500)])
def test_argmax_acceptance_is_convicted(bias: float, within: int) -> None:
    for seed in range(4):
        assert min(run(within, 0.6, seed, bias)) < within


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8), st.floats(0.05, 0.95))
def test_no_distribution_gives_evidence_against_itself(weights: list[float], share: float) -> None:
    p = [w / sum(weights) for w in weights]
    logs, entropy, variance = numbers(p)
    mean = sum(q * sharpness(log, entropy, variance, share) for q, log in zip(p, logs, strict=True))
    assert mean <= 1 + 1e-9


@given(st.floats(1e-9, 1 - 1e-9), st.floats(0.01, 100))
def test_odds_are_judged_fairly(expected: float, factor: float) -> None:
    mean = expected * changed_odds(True, expected, factor) + (1 - expected) * changed_odds(False, expected, factor)
    assert mean == pytest.approx(1)


def test_what_cannot_be_drawn_convicts_at_once_and_certain_draws_tell_nothing() -> None:
    calibration = Calibration()
    for position in range(1000):
        assert calibration.token(position, 0.0, 0.0, 0.0) is None
        assert calibration.draft(position, 1.0, True) is None
    finding = calibration.draft(1000, 0.0, True)
    assert finding is not None
    assert (finding.detector, finding.grade, finding.position, finding.began) == (
        "drift.accepted",
        Grade.FALLBACK,
        1000,
        1000,
    )


def test_too_few_accepted_drafts_are_convicted_too() -> None:
    calibration = Calibration()
    found = [calibration.draft(position, 0.8, False) for position in range(40)]
    finding = next(each for each in found if each is not None)
    assert finding.position < 25
    assert finding.reason.startswith("fewer")


def test_a_change_is_dated_to_where_it_began() -> None:
    test = ChangeTest(1e6)
    found = [test.feed(position, 0.5 if position < 300 else 2.0) for position in range(400)]
    assert next(each for each in found if each is not None) == pytest.approx(300, abs=1)
