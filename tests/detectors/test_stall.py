"""Stalls: limits from the stream's own rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Grade
from detectors.stall import StallDetector, StallSettings, engine_finding

SETTINGS = StallSettings()


def after(*seconds: float) -> StallDetector:
    detector = StallDetector()
    for each in seconds:
        detector.stepped(each)
    return detector


def test_before_the_first_step_there_is_no_rate() -> None:
    detector = StallDetector()
    assert detector.usual_s is None
    assert (detector.late_s, detector.lost_s) == (SETTINGS.first_s, SETTINGS.lost_first_s)


@pytest.mark.parametrize(
    ("step", "late", "lost"),
    [(0.01, 30.0, 300.0), (1.4, 30.0, 300.0), (2.0, 40.0, 300.0), (30.0, 600.0, 3600.0)],
)
def test_limits_follow_the_usual_step_above_a_floor(step: float, late: float, lost: float) -> None:
    detector = after(*[step] * 50)
    assert detector.late_s == pytest.approx(late)
    assert detector.lost_s == pytest.approx(lost)


def test_a_step_that_does_not_come() -> None:
    detector = after(2.0)
    assert detector.waiting(39.9, 7) is None
    late = detector.waiting(40.0, 7)
    assert late is not None
    assert (late.detector, late.grade, late.channel, late.position, late.began) == (
        "stall.step",
        Grade.FALLBACK,
        "engine",
        7,
        7,
    )
    assert late.evidence == {"waited_s": 40.0, "usual_s": 2.0}
    lost = detector.waiting(300.0, 7)
    assert lost is not None
    assert lost.grade is Grade.ABORT


def test_a_slow_step_now_and_then_is_nothing() -> None:
    """An audit, another prompt's chunk, a shared forward: up to 29 s between steps of 0.3 s."""
    detector = after(*[0.3, 0.3, 29.0] * 20)
    assert detector.waiting(29.0, 60) is None


def test_one_stall_does_not_teach_patience() -> None:
    detector = after(*[0.1] * 50)
    detector.stepped(250.0)
    assert detector.late_s < 1.1 * SETTINGS.floor_s


def test_a_stream_that_slows_down_for_good_is_followed() -> None:
    """A context that grows makes every step slower."""
    detector = after(*[0.1] * 50)
    for n in range(400):
        seconds = 0.1 * 1.02**n
        assert detector.waiting(seconds, n) is None
        detector.stepped(seconds)


@given(st.lists(st.floats(0, 1e4, allow_nan=False), max_size=50))
def test_limits_never_fall_below_their_floors(seconds: list[float]) -> None:
    detector = after(*seconds)
    assert detector.late_s >= SETTINGS.floor_s
    assert detector.lost_s >= max(SETTINGS.lost_floor_s, detector.late_s)
    assert detector.waiting(detector.late_s, 0) is not None


@pytest.mark.parametrize("why", ["died", "stuck"])
def test_an_engine_that_is_lost_ends_the_response(why: str) -> None:
    finding = engine_finding(7, why)
    assert (finding.detector, finding.grade, finding.position, finding.began) == ("stall.engine", Grade.ABORT, 7, 7)
    assert finding.evidence == {"engine": why}


def test_a_dead_engine_is_not_a_stuck_one() -> None:
    assert engine_finding(0, "died").reason != engine_finding(0, "stuck").reason
