"""The shadow test convicts a broken cache soon, a sound one as rarely as stated, and keeps buckets apart."""

from __future__ import annotations

import random
import statistics

import pytest

from detectors.drift.settings import DEFAULT
from detectors.drift.sprt import AgreementTest, ShadowAgreement
from detectors.finding import Grade

Q0 = 0.955


def fresh() -> AgreementTest:
    return AgreementTest(Q0, Q0 - DEFAULT.agreement_drop, DEFAULT.agreement_alpha, DEFAULT.agreement_beta)


def samples_to_conviction(rate: float, rng: random.Random) -> int:
    test = fresh()
    for n in range(1, 100_000):
        if test.feed(n, rng.random() < rate) is not None:
            return n
    raise AssertionError("never convicted")


@pytest.mark.parametrize(("rate", "median"), [(0.85, 150), (0.70, 40), (0.50, 20)])
def test_broken_agreement_is_convicted_soon(rate: float, median: int) -> None:
    rng = random.Random(1)
    assert statistics.median(samples_to_conviction(rate, rng) for _ in range(600)) <= median


def test_a_sound_engine_is_convicted_as_rarely_as_stated() -> None:
    rng, test, convictions = random.Random(2), fresh(), 0
    while test.acquittals + convictions < 6000:
        convictions += test.feed(0, rng.random() < Q0) is not None
    # Wald: at most alpha / (1 - beta) per test; 6.3 expected at most, more than 14 with a probability below .002
    assert convictions <= 14
    # and not because it never convicts: a wrong baseline is noticed
    assert sum(test.feed(0, rng.random() < Q0 - 0.05) is not None for _ in range(20_000)) > 5


def test_an_acquittal_does_not_protect_a_later_fault() -> None:
    test = fresh()
    for position in range(5000):
        assert test.feed(position, True) is None
    assert test.acquittals > 50
    # at worst (6.86 + 2.99) / 1.17 disagreements: both limits over what one of them weighs
    assert any(test.feed(n, False) is not None for n in range(9))


def test_a_conviction_names_its_evidence_and_starts_the_test_again() -> None:
    shadow = ShadowAgreement()
    found = [shadow.feed(position, "k4v4", 9000, False) for position in range(100, 110)]
    finding = next(each for each in found if each is not None)
    assert (finding.detector, finding.grade, finding.channel, finding.began) == (
        "drift.shadow",
        Grade.FALLBACK,
        "engine",
        0,
    )
    assert finding.evidence["bucket"] == 1
    assert finding.evidence["samples"] == finding.evidence["disagreements"] == found.index(finding) + 1
    assert sum(each is not None for each in found) == 10 // (found.index(finding) + 1)


def test_buckets_and_codecs_do_not_mix() -> None:
    shadow = ShadowAgreement()
    for position in range(3):
        for codec, context in (("k4v4", 100), ("k4v4", 9000), ("k3v3", 100)):
            assert shadow.feed(position, codec, context, False) is None
    assert len(list(shadow)) == 3


def test_rates_that_no_test_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match="q1"):
        AgreementTest(0.9, 0.9, 1e-3, 0.05)
