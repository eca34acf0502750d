"""The vocabulary of findings: grades are ordered, findings are values."""

from __future__ import annotations

import dataclasses

import pytest

from detectors.finding import Finding, Grade
from detectors.period import PeriodDetector


def test_the_gravest_grade_is_the_maximum() -> None:
    assert max(Grade.FALLBACK, Grade.SUSPECT, Grade.ABORT) is Grade.ABORT


def test_a_finding_cannot_be_changed() -> None:
    finding = Finding("loop.period", Grade.SUSPECT, "text", 5, 3, "a unit repeats")
    with pytest.raises(dataclasses.FrozenInstanceError):
        finding.position = 6  # type: ignore[misc]


def test_a_detector_on_tokens_keeps_the_protocol() -> None:
    from detectors.finding import TokenDetector

    detector: TokenDetector = PeriodDetector()
    assert detector.feed(0, 1) is None
    assert detector.grade is None
    detector.reset()
