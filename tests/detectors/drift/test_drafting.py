"""Acceptance is a witness, never a judge."""

from __future__ import annotations

from detectors.drift.drafting import DeadDrafter, DraftersAlive, Saturation


def test_saturation_needs_acceptance_and_certainty_together() -> None:
    for accepted, entropy, expected in ((3, 0.01, True), (3, 0.2, False), (0, 0.01, False)):
        saturation = Saturation()
        for _ in range(63):
            saturation.feed(accepted, entropy)
        assert not saturation.saturated
        assert saturation.acceptance is None
        saturation.feed(accepted, entropy)
        assert saturation.saturated is expected


def test_saturation_ends_with_the_drafts_that_miss() -> None:
    saturation = Saturation()
    for _ in range(100):
        saturation.feed(1, 0.0)
    saturation.feed(0, 0.0)
    assert saturation.saturated
    saturation.feed(0, 0.0)
    assert not saturation.saturated


def test_a_dead_drafter_is_told_once_per_death() -> None:
    alive = DraftersAlive()
    events = [alive.feed("mtp", 2, 0) for _ in range(60)]
    assert [event for event in events if event] == [DeadDrafter("mtp", 50)]
    assert alive.feed("none", 0, 0) is None
    assert alive.feed("mtp", 2, 1) is None
    assert [event for event in (alive.feed("mtp", 7, 0) for _ in range(9)) if event] == [DeadDrafter("mtp", 56)]
