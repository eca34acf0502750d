"""The monitor passes each number to its detector, and acceptance alone never convicts."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from detectors.drift.memory import DriftMemory
from detectors.drift.monitor import DriftMonitor
from detectors.finding import Finding, Grade


@dataclass(frozen=True)
class Drawn:
    logprob: float
    entropy: float
    variance: float


@dataclass(frozen=True)
class Token:
    id: int
    top1_prob: float | None = 0.6
    margin: float | None = 1.0
    entropy: float | None = 0.01
    drawn: Drawn | None = None


@dataclass(frozen=True)
class Shadow:
    agrees: bool
    identical: bool = False
    position: int = 40
    kl: float = 0.5
    doubt: float = 1.0


@dataclass(frozen=True)
class Step:
    source: str = "ngram"
    drafted: int = 7
    accepted: int = 7
    context: int = 500
    expected: tuple[float, ...] = ()
    shadow: Shadow | None = None
    cache: None = None
    dead_drafter: str | None = None


@pytest.mark.parametrize("accepted", [0, 1, 7])
@pytest.mark.parametrize("source", ["ngram", "mtp"])
def test_acceptance_alone_never_convicts(accepted: int, source: str) -> None:
    """Pinned at everything or nothing, with a text that deserves it: thousands of steps and not a word."""
    monitor, rng = DriftMonitor("full"), random.Random(1)
    expected = (0.9999,) * accepted if accepted else (1e-4,)
    for step in range(3000):
        tokens = [Token(rng.randrange(300)) for _ in range(accepted + 1)]
        at = step * (accepted + 1)
        assert monitor.feed(at, tokens, Step(source, 7, accepted, expected=expected)) is None
    assert monitor.saturated is (accepted > 0)
    assert [event.source for event in monitor.dead] == ([] if accepted else [source])


def test_an_mtp_drafters_acceptance_is_not_held_against_its_probability() -> None:
    for source, convicted in (("mtp", False), ("ngram", True)):
        monitor = DriftMonitor("full")
        found = [monitor.feed(n, [Token(n % 300)], Step(source, 1, 1, expected=(0.3,))) for n in range(60)]
        assert any(found) is convicted


def test_sharpened_draws_are_convicted() -> None:
    monitor = DriftMonitor("full")
    drawn = Drawn(-0.357, 0.611, 0.151)
    found = [monitor.feed(n, [Token(n % 300, drawn=drawn)], Step("none", 0, 0)) for n in range(300)]
    finding = next(each for each in found if each is not None)
    assert finding.detector == "drift.sharpened"
    assert finding.position < 150


def test_after_a_rewind_the_same_draws_do_not_count_twice() -> None:
    drawn = Drawn(-0.357, 0.611, 0.151)
    monitor = DriftMonitor("full")
    for _ in range(5):
        for n in range(60):
            assert monitor.feed(n, [Token(n % 300, drawn=drawn)], Step("none", 0, 0)) is None
        monitor.rewound("full")


def test_shadow_samples_of_all_responses_count_together() -> None:
    shadow, found = DriftMemory(), list[Finding | None]()
    for _ in range(20):
        monitor = DriftMonitor("k4v4", shadow)
        found.append(monitor.feed(40, [Token(1)], Step(shadow=Shadow(agrees=False))))
    assert any(finding is not None and finding.detector == "drift.shadow" for finding in found)


def test_a_lossless_codec_on_an_exact_device_is_held_to_every_bit() -> None:
    for codec, exact, convicted in (("full", True, True), ("full", False, False), ("k4v4", True, False)):
        monitor = DriftMonitor(codec, exact=exact)
        finding = monitor.feed(40, [Token(1)], Step(shadow=Shadow(agrees=True)))
        assert (finding is not None) is convicted
    assert DriftMonitor("full", exact=True).feed(40, [Token(1)], Step(shadow=Shadow(True, identical=True))) is None


def test_the_gravest_finding_of_a_step_is_told() -> None:
    monitor = DriftMonitor("full", exact=True)
    collapsed = Token(0, 0.99999, 20.0, 0.0)
    finding = monitor.feed(0, [collapsed] * 8, Step("none", 0, 0))
    assert finding is not None
    assert (finding.detector, finding.grade) == ("drift.collapse", Grade.FALLBACK)


def test_saturation_is_written_beside_a_loop() -> None:
    loop = Finding("loop.period", Grade.FALLBACK, "text", 300, 10, "a loop", {"period": 4})
    monitor = DriftMonitor("full")
    assert monitor.corroborated(loop) is loop
    for step in range(64):
        monitor.feed(step * 8, [Token(step)] * 8, Step())
    assert monitor.corroborated(loop).evidence == {"period": 4, "saturated": 1.0}


def test_a_backend_that_tells_nothing_is_not_judged() -> None:
    monitor = DriftMonitor("full")
    for position in range(200):
        assert monitor.feed(position, [Token(0, None, None, None)], Step("none", 0, 0)) is None
