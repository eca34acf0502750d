"""A response of one certain token is convicted at its eighth; a beginning that only looks so is not."""

from __future__ import annotations

from detectors.drift.collapse import Collapse
from detectors.finding import Finding, Grade

CERTAIN = (0.9999, 12.0, 0.001)
FLAT = (1 / 300, 0.0, 5.7)


def feed(tokens: list[int], numbers: tuple[float, float, float]) -> list[Finding]:
    collapse = Collapse()
    found = [collapse.feed(position, token, *numbers) for position, token in enumerate(tokens)]
    return [finding for finding in found if finding is not None]


def test_id_0_is_suspected_at_once_and_convicted_at_the_eighth() -> None:
    for numbers in (CERTAIN, FLAT):
        suspect, convict = feed([0] * 50, numbers)
        assert (suspect.grade, suspect.position) == (Grade.SUSPECT, 0)
        assert (convict.grade, convict.position, convict.began) == (Grade.FALLBACK, 7, 0)


def test_another_certain_token_is_convicted_too() -> None:
    assert [(f.grade, f.position) for f in feed([33] * 50, CERTAIN)] == [(Grade.FALLBACK, 7)]


def test_a_flat_beginning_needs_id_0_as_ties_go_to_it() -> None:
    assert feed([33] * 50, FLAT) == []


def test_one_other_or_doubtful_token_acquits_for_good() -> None:
    assert feed([33] * 6 + [34] + [33] * 50, CERTAIN) == []
    assert feed([33] * 50, (0.99, 4.0, 0.05)) == []
    assert feed([33] * 50, (0.9995, 4.0, 0.5)) == []
