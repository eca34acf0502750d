"""Audits and flags of the engine as findings."""

from __future__ import annotations

import pytest

from detectors.audit import REASONS, audit_finding, nonfinite_finding
from detectors.finding import Grade


def test_a_clean_audit_says_nothing() -> None:
    assert audit_finding(10, 8, None, 0.0) is None


def test_a_mismatch_convicts_the_whole_step() -> None:
    finding = audit_finding(10, 8, 2, 0.5)
    assert finding is not None
    assert (finding.detector, finding.grade, finding.channel) == ("drift.audit", Grade.FALLBACK, "engine")
    assert (finding.began, finding.position) == (10, 12)
    assert finding.evidence == {"rows": 8, "mismatch": 2, "max_abs_diff": 0.5, "compared": "rows"}


@pytest.mark.parametrize("compared", REASONS)
def test_the_reason_says_what_was_compared(compared: str) -> None:
    finding = audit_finding(10, 8, 2, 0.0, compared)
    assert finding is not None
    assert finding.reason == REASONS[compared]
    assert finding.detector == ("drift.prefix" if compared == "prefix" else "drift.audit")
    assert finding.evidence["compared"] == compared


@pytest.mark.parametrize("finite", [True, None])
def test_numbers_that_are_finite_or_not_told_say_nothing(finite: bool | None) -> None:
    assert nonfinite_finding(3, finite) is None


def test_numbers_that_are_none_convict_their_token() -> None:
    finding = nonfinite_finding(3, False)
    assert finding is not None
    assert (finding.detector, finding.began, finding.position) == ("drift.nonfinite", 3, 3)
