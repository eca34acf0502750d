"""A sound codec is not convicted whatever its tails; a broken one is, within the stated samples."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from detectors.drift.divergence import CLIP, STAKES, ShadowDivergence, bet
from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade

BASELINE = DEFAULT.divergence["k4v4"]


def heavy(rng: random.Random, mean: float, spread: float) -> float:
    """Log-normal with this mean: a spread of 2.5 puts half of the mean into one sample of 250."""
    return mean * math.exp(rng.gauss(0.0, spread) - spread**2 / 2)


def samples_to_conviction(rng: random.Random, mean: float, spread: float, share: float = 1.0) -> int:
    test = ShadowDivergence()
    for n in range(1, 20_000):
        if test.feed(n, "k4v4", 500, heavy(rng, mean, spread) if rng.random() < share else 0.0) is not None:
            return n
    raise AssertionError("never convicted")


@pytest.mark.parametrize("stake", STAKES)
def test_a_bet_is_fair_and_bounded(stake: float) -> None:
    assert bet(BASELINE, BASELINE, stake) == pytest.approx(1.0)
    assert bet(0.0, BASELINE, stake) == pytest.approx(1 - stake)
    most = 1 + stake * (CLIP - 1)
    for far in (1e3, math.inf, math.nan):
        assert bet(far, BASELINE, stake) == pytest.approx(most)


@pytest.mark.parametrize("spread", [0.5, 1.5, 2.5, 3.5])
def test_a_codec_at_its_baseline_is_not_convicted_whatever_the_tails(spread: float) -> None:
    """The bound allows one conviction in ten such runs; text comes in stretches that are hard or easy."""
    rng, test = random.Random(int(spread * 10)), ShadowDivergence()
    hard = 0.0
    for n in range(100_000):
        hard = 0.98 * hard + 0.2 * rng.gauss(0.0, 1.0)
        mean = BASELINE / 3 * math.exp(0.5 * hard - 0.125)
        assert test.feed(n, "k4v4", 500, heavy(rng, mean, spread)) is None


@pytest.mark.slow
@pytest.mark.parametrize("codec", DEFAULT.divergence)
def test_a_million_samples_of_a_sound_codec(codec: str) -> None:
    rng, test, baseline = random.Random(codec), ShadowDivergence(), DEFAULT.divergence[codec]
    for n in range(1_000_000):
        assert test.feed(n, codec, 500, heavy(rng, baseline, 2.5)) is None


@pytest.mark.parametrize(
    ("times", "spread", "share", "median"),
    [
        (2, 0.5, 1.0, 90),
        (5, 1.0, 1.0, 30),
        (20, 1.0, 1.0, 12),
        (100, 1.0, 1.0, 8),
        (500, 1.0, 0.1, 160),
    ],
)
def test_a_broken_codec_is_convicted_within_the_stated_samples(
    times: float, spread: float, share: float, median: int
) -> None:
    rng = random.Random(1)
    found = [samples_to_conviction(rng, times * BASELINE, spread, share) for _ in range(200)]
    assert statistics.median(found) <= median


def test_a_conviction_names_its_evidence_and_starts_again() -> None:
    test = ShadowDivergence()
    found: list[Finding | None] = [test.feed(40 + n, "k4v4", 9000, 5.0) for n in range(20)]
    finding = next(each for each in found if each is not None)
    assert (finding.detector, finding.grade, finding.began) == ("drift.shadow", Grade.FALLBACK, 0)
    samples = found.index(finding) + 1
    assert finding.evidence == {
        "codec": "k4v4", "bucket": 1, "samples": samples, "kl": 5.0, "doubt": 1.0, "baseline": BASELINE,
    }  # fmt: skip
    assert sum(each is not None for each in found) == 20 // samples


def test_a_certain_text_is_judged_as_strictly_as_a_doubtful_one() -> None:
    found = []
    for doubt in (1.0, 0.1, 0.02, 0.0001):
        test = ShadowDivergence()
        kl = 4 * BASELINE * max(doubt, 0.02)
        found.append(next(n for n in range(200) if test.feed(n, "k4v4", 500, kl, doubt)))
    assert len(set(found)) == 1


def test_codecs_and_context_lengths_do_not_mix() -> None:
    test = ShadowDivergence()
    for n in range(4):
        for codec, context in (("k4v4", 100), ("k4v4", 9000), ("k3v3", 100)):
            assert test.feed(n, codec, context, 50.0) is None


def test_measured_baselines_go_before_general_ones() -> None:
    settings = DriftSettings(divergence_by_bucket={"k4v4": {1: 2.0}})
    assert settings.divergence_of("k4v4", 1) == 2.0
    assert settings.divergence_of("k4v4", 0) == BASELINE
    assert settings.divergence_of("unheard-of", 0) == max(settings.divergence.values())
    with pytest.raises(ValueError, match="divergence"):
        DriftSettings(divergence={"k4v4": 0.0})
