"""The settings object: frozen, complete, and what is shipped."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from detectors.settings import DetectorSettings
from detectors.structure import Steps


def test_nothing_can_be_changed_and_everything_replaced() -> None:
    shipped = DetectorSettings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        shipped.loops = shipped.loops  # type: ignore[misc]
    other = dataclasses.replace(shipped, loops=dataclasses.replace(shipped.loops, base64_chars=512))
    assert (shipped.loops.base64_chars, other.loops.base64_chars) == (256, 512)
    assert DetectorSettings() == shipped


@pytest.mark.parametrize(
    ("part", "wrong", "named"),
    [
        ("elements", {"words_suspect": 1}, "words_suspect"),
        ("elements", {"words_fallback": 4}, "words_fallback"),
        ("charset", {"letters": 0}, "letters"),
        ("charset", {"letters": 600}, "letters"),
        ("charset", {"scripts": 20, "each": 30}, "scripts"),
        ("charset", {"window": 10**10}, "window: must be 4096"),
        ("calls", {"suspect": 1}, "suspect"),
        ("calls", {"fallback": 9}, "abort"),
        ("calls", {"distinct": 0}, "distinct"),
        ("history", {"many": 2}, "many"),
        ("history", {"counted": 4}, "counted"),
        ("history", {"cycle": 0}, "cycle"),
        ("history", {"cleared": ("",)}, "cleared"),
        ("history", {"remarks": ("Resume", "")}, "remarks"),
        ("stall", {"factor": 0.0}, "factor"),
        ("stall", {"lost_first_s": -1.0}, "lost_first_s"),
        ("stall", {"share": 1.5}, "share"),
    ],
)
def test_what_cannot_work_is_refused_by_name(part: str, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        dataclasses.replace(getattr(DetectorSettings(), part), **wrong)


def test_steps_do_not_fall() -> None:
    with pytest.raises(ValueError, match="do not fall"):
        Steps(3, 2)
