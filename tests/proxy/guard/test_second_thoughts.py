"""What another attempt thinks, cut anywhere: nothing that was told is told again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Piece
from proxy.events import TextDelta, ThinkingDelta
from proxy.guard.holdback import HoldBack
from proxy.guard.second_thoughts import BREAK, SecondThoughts

words = st.text("ab \n", max_size=12)
cuts = st.lists(st.integers(1, 4), max_size=12)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [piece for piece in (*pieces, text) if piece]


@given(words, words, cuts)
def test_however_it_is_cut(delivered: str, again: str, sizes: list[int]) -> None:
    second = SecondThoughts(0, delivered)
    told = "".join(second.take(piece) for piece in cut(again, sizes))
    if again.startswith(delivered):
        assert told == again.removeprefix(delivered)
    elif delivered.startswith(again):
        assert told == ""
    else:
        assert told == BREAK + again


@given(words, cuts)
def test_behind_the_end_of_a_block_none_are_told(again: str, sizes: list[int]) -> None:
    second = SecondThoughts(0, None)
    assert [second.take(piece) for piece in cut(again, sizes)] == [""] * len(cut(again, sizes))


def thought(text: str, position: int) -> Piece:
    return Piece("thinking", text, position)


def left(*said: Piece, broken_off: bool) -> HoldBack:
    """What was said is delivered, and a server goes on behind it."""
    holdback = HoldBack((), 1000)
    for each in said:
        holdback.push(each)
    holdback.release()
    holdback.restart()
    holdback.begins_anew(holdback.undelivered, broken_off)
    for each in said:
        holdback.push(each)
    return holdback


def test_where_nothing_was_delivered_all_of_it_is_told() -> None:
    holdback = left(broken_off=True)
    holdback.push(thought("a", 0))
    assert holdback.release() == [ThinkingDelta("a")]


def test_thoughts_that_are_not_told_do_not_end_a_text() -> None:
    holdback = left(thought("a", 0), Piece("text", "so", 1), broken_off=False)
    holdback.push(thought("b", 2))
    assert holdback.release() == []
    assert holdback.ends_in_text
    assert holdback.undelivered == 3


def test_thoughts_behind_the_attempts_first_words_are_told() -> None:
    holdback = left(thought("a", 0), broken_off=False)
    for each in (thought("b", 1), Piece("text", "so", 2), thought("c", 3)):
        holdback.push(each)
    assert holdback.release() == [TextDelta("so"), ThinkingDelta("c")]


def test_only_the_open_block_goes_on() -> None:
    """Not what was thought before a text."""
    holdback = left(thought("a", 0), Piece("text", "so", 1), thought("bc", 2), broken_off=True)
    holdback.push(thought("bcd", 3))
    assert holdback.release() == [ThinkingDelta("d")]


def test_a_block_that_a_text_has_ended_does_not_go_on() -> None:
    """Others had begun behind it, of which nothing was delivered."""
    holdback = left(thought("a", 0), Piece("text", "so", 1), broken_off=True)
    holdback.push(thought("ab", 2))
    assert holdback.release() == []


def test_what_is_kept_of_a_token_that_was_sent_in_part_is_told() -> None:
    """It may begin a stop string, so its end was held back; it is the first attempt's."""
    holdback = HoldBack(("bX",), 1000)
    holdback.push(thought("ab", 0))
    assert holdback.release() == [ThinkingDelta("a")]
    holdback.restart()
    holdback.begins_anew(1, True)
    holdback.push(thought("ab", 0))
    holdback.push(thought("abc", 1))
    assert holdback.release() == [ThinkingDelta("bc")]


def test_a_third_attempt_goes_on_behind_what_the_client_has_of_both() -> None:
    holdback = left(thought("a", 0), broken_off=True)
    holdback.push(thought("x", 1))
    assert holdback.release() == [ThinkingDelta(f"{BREAK}x")]
    holdback.restart()
    holdback.begins_anew(2, True)
    for each in (thought("a", 0), thought("x", 1), thought(f"a{BREAK}xy", 2)):
        holdback.push(each)
    assert holdback.release() == [ThinkingDelta("y")]
