"""Stop strings: found wherever the text is cut, with nothing released that may belong to one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.stops import StopMatcher

PIECES = st.lists(st.text("ab", max_size=4), max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)


def defined(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The first end at which a stop string is complete, and the longest that ends there."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            hit = max(hits, key=len)
            return text[: end - len(hit)], hit
    return text, None


@given(PIECES, STOPS)
@settings(max_examples=400)
def test_cuts_do_not_matter(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    text, released, found = "", "", None
    for new in pieces:
        text += new
        piece, found = matcher.feed(new)
        released += piece
        # nothing that may still become a stop string is out, and nothing else is held
        before, hit = defined(text, stops)
        tails = [n for stop in stops for n in range(len(stop)) if before.endswith(stop[:n])]
        held = 0 if hit else max(tails, default=0)
        assert released == before[: len(before) - held]
        assert found == hit
    assert (released + matcher.flush(), found) == defined(text, stops)


def test_nothing_after_a_hit() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("one EN") == ("one ", None)
    assert matcher.held == "EN"
    assert matcher.feed("D two") == ("", "END")
    assert matcher.feed("three") == ("", "END")
    assert matcher.flush() == ""
    assert matcher.hit == "END"


def test_a_false_start_is_released() -> None:
    matcher = StopMatcher(["</done>"])
    assert matcher.feed("a</do") == ("a", None)
    assert matcher.feed("or>") == ("</door>", None)


def test_overlapping_start() -> None:
    matcher = StopMatcher(["aab"])
    assert matcher.feed("aaa") == ("a", None)
    assert matcher.feed("b") == ("", "aab")


def test_the_first_to_be_complete_wins() -> None:
    assert StopMatcher(["abcd", "c"]).feed("abcd") == ("ab", "c")
    assert StopMatcher(["c", "bc"]).feed("abcd") == ("a", "bc")


def test_without_stops_all_passes() -> None:
    assert StopMatcher([]).feed("text") == ("text", None)


def test_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="stops"):
        StopMatcher(["a", ""])
