"""A continuation says nothing again, however it is cut, and loses nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.lane_start import Continuation


def continued(delivered: str, *pieces: str) -> str:
    start = Continuation(delivered)
    return "".join(start.take(piece) for piece in pieces) + start.finish()


@pytest.mark.parametrize(
    ("delivered", "pieces", "new"),
    [
        ("I list it.", ("", " Now"), " Now"),
        ("I list it.\n", ("\n", "Now"), "Now"),
        ("I list it.\n", ("Now",), "Now"),
        ("I list it. \n", (" Now",), "Now"),
        ("I list it.", ("I list", " it. Now"), " Now"),
        ("I list it.\n", ("I list it.", "\nNow"), "Now"),
        ("I list it.", ("I list them",), "I list them"),
        ("I list it.", ("I li",), "I li"),
        ("aha ", ("aha",), "aha"),
    ],
)
def test_what_is_new(delivered: str, pieces: tuple[str, ...], new: str) -> None:
    assert continued(delivered, *pieces) == new


def test_of_a_kind_that_repeats_it_a_short_beginning_is_one_too() -> None:
    assert Continuation("aha ", echoes=True).take("aha so") == "so"
    assert Continuation("aha ").take("aha so") == "aha so"
    assert Continuation("aha ", echoes=True).take("no") == "no"


def test_what_the_lane_is_given() -> None:
    assert Continuation("I list it. \n").prefill == "I list it."


@given(st.text("ab \n", min_size=1, max_size=20), st.text("ab \n", max_size=20), st.booleans(), st.data())
def test_cuts_do_not_matter(delivered: str, more: str, echoes: bool, data: st.DataObject) -> None:
    said = (Continuation(delivered).prefill if echoes else "") + more
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=4)))
    pieces = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    assert continued(delivered, *pieces) == continued(delivered, said)
    assert said.endswith(continued(delivered, said))


def test_a_server_that_repeats_does_so_however_little_was_said() -> None:
    """llama.cpp begins its first delta with all of the message that it continues."""
    start = Continuation("I list", echoes=True)
    assert [start.take("I list it"), start.take(".")] == [" it", "."]
    silent = Continuation("I list", echoes=True)
    assert [silent.take(" it"), silent.take(".")] == [" it", "."], "an older one does not"
    assert Continuation("I list").take("I list it") == "I list it", "a short repetition may be meant"
