"""How long a call is held, on a clock that is turned by hand."""

from __future__ import annotations

import pytest

from detectors.finding import Finding
from proxy.guard.hold_clock import HoldClock


class Held:
    """A clock and what is measured by it."""

    def __init__(self, limit_s: float = 540.0) -> None:
        self.now = 100.0
        self.clock = HoldClock(limit_s, lambda: self.now)

    def work(self, seconds: float) -> None:
        with self.clock:
            self.now += seconds

    def finding(self) -> Finding | None:
        return self.clock.finding("tool:1", 99, 7, "edit", 4096)


def test_only_work_on_a_held_call_counts() -> None:
    held = Held()
    held.work(1000)
    held.clock.hold(0)
    held.now += 5000  # the client reads
    held.work(539)
    assert held.finding() is None
    held.work(1.5)
    found = held.finding()
    assert found is not None
    assert (found.detector, found.grade.name, found.channel) == ("tool.held", "FALLBACK", "tool:1")
    assert (found.position, found.began) == (99, 7)
    assert found.evidence == {"held_s": 540.5, "limit_s": 540.0, "chars": 4096, "tool": "edit"}


def test_it_is_told_once_per_call() -> None:
    held = Held(10)
    held.clock.hold(0)
    held.work(20)
    assert held.finding() is not None
    held.work(20)
    assert held.finding() is None
    held.clock.release()
    held.work(50)
    held.clock.hold(0)
    assert held.finding() is None
    held.work(10)
    assert held.finding() is not None


def test_holding_again_is_still_the_same_hold() -> None:
    held = Held(10)
    held.clock.hold(0)
    held.work(6)
    held.clock.hold(0)
    held.work(4)
    assert held.finding() is not None


def test_work_that_fails_counts() -> None:
    held = Held(10)
    held.clock.hold(0)
    with pytest.raises(ValueError, match="broken"), held.clock:
        held.now += 10
        raise ValueError("broken")
    assert held.clock.held_s == 10


def test_without_a_limit_nothing_is_too_long() -> None:
    held = Held(0)
    held.clock.hold(0)
    held.work(1e9)
    assert held.finding() is None


def test_a_call_without_a_name_yet_has_none_in_the_evidence() -> None:
    held = Held(1)
    held.clock.hold(0)
    held.work(1)
    found = held.clock.finding("tool:0", 5, 5, "", 3)
    assert found is not None
    assert "tool" not in found.evidence


def test_another_call_has_a_hold_of_its_own_and_the_same_one_has_not() -> None:
    held = Held(limit_s=10)
    held.clock.hold(0)
    held.work(9)
    held.clock.hold(1)
    assert held.clock.held_s == 0
    held.work(9)
    held.clock.hold(1)
    assert held.clock.held_s == 9
