"""Prose, fenced code and base64 are told apart, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.regions import BASE64, CODE, PROSE, Region, Regions
from detectors.token_text import read


def ends(text: str, size: int = 1, fences: bool = True) -> Region:
    regions, last = Regions(fences), PROSE
    for at in range(0, len(text), size):
        piece = text[at : at + size]
        last = regions.feed(piece, read(piece))
    return last


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("see:\n```python\nx = 1\n", CODE),
        ("```\nx", CODE),
        ("  ```\nx", CODE),
        ("```\nx\n```\nso", PROSE),
        ("```\nx\n```", PROSE),
        ("an ```inline``` fence", PROSE),
        ("`` two", PROSE),
        ("````md\n```py\nx\n", CODE),
        ("```md\n```py\nx\n", CODE),
        ("```\na\n```\nb\n```\nc", CODE),
    ],
)
def test_fences(text: str, region: Region) -> None:
    assert {ends(text, size) for size in (1, 2, 3, 50)} == {region}


def test_arguments_have_no_fences() -> None:
    assert ends("```\nx", fences=False) is PROSE


def test_a_long_run_with_capitals_is_base64() -> None:
    assert ends("data:" + "QUJD" * 63) is PROSE
    assert ends("data:" + "QUJD" * 64) is BASE64
    assert ends("data:" + "QUJD" * 64 + " and") is PROSE
    assert ends("data:" + "QUJD" * 64, fences=False) is BASE64


def test_a_long_run_without_capitals_is_a_stuck_word() -> None:
    assert ends("ur" * 400) is PROSE
    assert ends("/" * 400) is PROSE


def test_reset_starts_anew() -> None:
    regions = Regions()
    regions.feed("```\n", read("```\n"))
    regions.reset(fences=True)
    assert regions.feed("x", read("x")) is PROSE


@given(st.lists(st.sampled_from(["```", "`", "\n", "x ", "py", " ", "QUJDR0hJ" * 20, "é"]), max_size=40), st.data())
def test_the_cut_does_not_matter(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    assert ends(text, data.draw(st.integers(1, 9))) is ends(text)
