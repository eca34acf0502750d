"""The example of a detector of one's own: it keeps the protocol, and is short enough to read."""

from __future__ import annotations

from pathlib import Path

from examples import custom_detector
from examples.custom_detector import Shouting


def test_it_speaks_once_and_calms_down() -> None:
    detector = Shouting(limit=6)
    assert [
        f.began for i, text in enumerate(["so ", "LOUD ", "VERY ", "LOUD "]) if (f := detector.feed(i, 0, text))
    ] == [1]
    assert detector.grade is not None
    detector.feed(4, 0, "calm")
    assert detector.grade is None


def test_the_cut_does_not_matter() -> None:
    text = "a LOUDER word"
    whole, parts = Shouting(limit=6), Shouting(limit=6)
    found = whole.feed(0, 0, text)
    assert found is not None
    assert [f for char in text if (f := parts.feed(0, 0, char))] == [found]
    assert (whole.capitals, whole.grade) == (parts.capitals, parts.grade)


def test_it_stays_short() -> None:
    assert custom_detector.__file__ is not None
    assert Path(custom_detector.__file__).read_text(encoding="utf-8").count("\n") < 40
