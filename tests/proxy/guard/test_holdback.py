"""The hold-back: order, suspicion, stop strings, and that a rewind never sends anything twice."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import Piece
from detectors.watch import ReadCall, Said
from proxy.events import Event, TextDelta, ThinkingDelta, ToolCall
from proxy.guard.holdback import HoldBack


def text(words: str, position: int) -> Piece:
    return Piece("text", words, position)


def call(first: int, last: int) -> ReadCall:
    return ReadCall(0, "ls", "{}", "", first, last, None)


def filled(*said: Said, stops: Sequence[str] = (), text_chars: int = 1000) -> HoldBack:
    holdback = HoldBack(stops, text_chars)
    for each in said:
        holdback.push(each)
    return holdback


def test_neighbouring_text_is_joined_and_order_kept() -> None:
    holdback = filled(Piece("thinking", "hm", 0), text("a", 1), text("b", 2), call(3, 6), text("c", 7))
    assert holdback.release() == [
        ThinkingDelta("hm"),
        TextDelta("ab"),
        ToolCall(0, "ls", "{}"),
        TextDelta("c"),
    ]
    assert (holdback.calls, holdback.undelivered, holdback.ends_in_text) == (1, 8, True)
    assert holdback.release() == []


def test_calls_are_numbered_as_they_are_sent() -> None:
    assert filled(call(0, 1), call(2, 3)).release() == [ToolCall(0, "ls", "{}"), ToolCall(1, "ls", "{}")]


def test_suspicious_text_waits() -> None:
    holdback = filled(text("a", 0))
    assert holdback.release(suspicious=True) == []
    assert holdback.undelivered == 0
    holdback.push(text("b", 1))
    assert holdback.release() == [TextDelta("ab")]


def test_suspicion_holds_no_more_than_its_limit() -> None:
    holdback = filled(text("a" * 10, 0), text_chars=10)
    assert holdback.release(suspicious=True) == []
    holdback.push(text("b", 1))
    assert holdback.release(suspicious=True) == [TextDelta("a" * 10 + "b")]


def test_what_was_given_up_is_never_sent() -> None:
    holdback = filled(text("a", 0), text("b", 1), call(2, 4))
    holdback.drop_from(1)
    assert holdback.finish(None) == [TextDelta("a")]


def test_the_beginning_of_a_stop_string_waits() -> None:
    holdback = filled(text("so E", 0), stops=("END",))
    assert holdback.release() == [TextDelta("so ")]
    holdback.push(text("N", 1))
    assert holdback.release() == []
    holdback.push(text("D", 2))
    assert holdback.finish("END") == []


def test_the_beginning_of_a_stop_string_is_released_when_it_is_none() -> None:
    holdback = filled(text("E", 0), stops=("END",))
    assert holdback.release() == []
    holdback.push(text("x", 1))
    assert holdback.release() == [TextDelta("Ex")]


def test_a_stop_string_that_the_backend_cut_off_itself() -> None:
    assert filled(text("so ", 0), stops=("END",)).finish("END") == [TextDelta("so ")]


def test_a_partly_sent_token_counts_as_delivered() -> None:
    holdback = filled(text("so E", 4), stops=("END",))
    holdback.release()
    assert holdback.undelivered == 5


def collected(events: list[Event]) -> str:
    return "".join(event.text if isinstance(event, TextDelta) else "#" for event in events)


SAID = st.lists(st.sampled_from(["a", "bc", "E", "N", "#"]), max_size=20)


@given(SAID, SAID, st.data())
def test_after_a_rewind_exactly_the_rest_is_sent(first: list[str], second: list[str], data: st.DataObject) -> None:
    def push(words: list[str], holdback: HoldBack) -> list[Event]:
        sent: list[Event] = []
        for position, word in enumerate(words):
            holdback.push(call(position, position) if word == "#" else text(word, position))
            if data.draw(st.booleans()):
                sent += holdback.release(data.draw(st.booleans()))
        return sent

    holdback = HoldBack(("END",), 1000)
    sent = push(first, holdback)
    kept = first[: data.draw(st.integers(min(holdback.undelivered, len(first)), len(first)))]
    holdback.restart()
    sent += push(kept + second, holdback)
    sent += holdback.finish(None)
    assert collected(sent) == "".join(kept + second)


def second_attempt(*thoughts: str, is_broken_off: bool) -> HoldBack:
    """Of a response whose first attempt thought "I look " in two tokens; a token for each of the thoughts."""
    holdback = filled(Piece("thinking", "I ", 0), Piece("thinking", "look ", 1))
    holdback.release()
    holdback.restart()
    holdback.begins_anew(2, is_broken_off)
    for piece in (Piece("thinking", "I ", 0), Piece("thinking", "look ", 1)):
        holdback.push(piece)
    for position, words in enumerate(thoughts, 2):
        holdback.push(Piece("thinking", words, position))
        holdback.release()
    return holdback


def test_thoughts_that_the_client_has_are_counted_as_untold() -> None:
    assert second_attempt("We ", "see ", "it", is_broken_off=False).untold == 3
    assert second_attempt("I ", "look ", "there", is_broken_off=True).untold == 2
    assert second_attempt("I ", "look there", is_broken_off=True).untold == 1, "the last token is told in part"
    assert second_attempt(is_broken_off=True).untold == 0


def test_other_thoughts_are_told_whole_and_none_of_them_is_untold() -> None:
    assert second_attempt("I ", "see ", "it", is_broken_off=True).untold == 0


def test_a_third_attempt_counts_on() -> None:
    holdback = second_attempt("We ", "see ", is_broken_off=False)
    holdback.restart()
    holdback.begins_anew(4, False)
    for position, words in enumerate(("I ", "look ", "We ", "see ", "They ", "too ")):
        holdback.push(Piece("thinking", words, position))
    holdback.push(text("So", 6))
    holdback.finish(None)
    assert holdback.untold == 4


def test_two_pieces_of_a_token_are_one_token() -> None:
    holdback = second_attempt("We ", is_broken_off=False)
    holdback.push(Piece("thinking", "see", 2))
    holdback.finish(None)
    assert holdback.untold == 1
