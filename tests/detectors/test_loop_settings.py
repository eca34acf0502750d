"""The numbers of the loop detectors: what cannot work is refused by name."""

from __future__ import annotations

import pytest

from detectors.loop_settings import LoopSettings
from detectors.period import Threshold, Thresholds


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"base64_chars": 3}, "base64_chars"),
        ({"counter_from_start": 3}, "counter_from_start"),
        ({"single_suspect_chars": 3}, "single_"),
        ({"single_fallback_chars": 100}, "single_"),
        ({"single_abort_chars": 200}, "single_"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LoopSettings(**wrong)  # type: ignore[arg-type]


def test_grades_do_not_get_easier() -> None:
    for wrong in ((Threshold(4, 256), Threshold(3, 512), None), (Threshold(3, 256), None, Threshold(6, 128))):
        with pytest.raises(ValueError, match="as much as the one before"):
            Thresholds(*wrong)


def test_arguments_and_code_want_more_than_prose() -> None:
    """They carry data that repeats by right."""
    shipped = LoopSettings()
    for grade in ("suspect", "fallback", "abort"):
        prose = getattr(shipped.prose, grade)
        for strict in (shipped.code, shipped.arguments):
            assert getattr(strict, grade).covered > prose.covered
            assert getattr(strict, grade).copies >= prose.copies
