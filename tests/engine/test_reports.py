"""A cache report says whether the step's own attention was at fault."""

from __future__ import annotations

from typing import Literal

import pytest

from engine.reports import CacheFault, CacheReport


def report(*checks: Literal["finite", "read-back", "seal", "reading"]) -> CacheReport:
    faults = tuple(CacheFault(check, 0, "both", 64, 1.0, 0.1) for check in checks)
    return CacheReport(faults, 0, 0, 0, None, None, None, 0.1)


@pytest.mark.parametrize("check", ["finite", "read-back", "seal"])
def test_only_a_second_reading_says_that_the_step_misread(check: Literal["finite", "read-back", "seal"]) -> None:
    assert not report().misread
    assert not report(check).misread
    assert report(check, "reading").misread
