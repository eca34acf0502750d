"""Channels: transcripts of what goes where, and the same answer however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detectors.channels import CallClosed, CallCut, CallOpened, CallText, ChannelEvent, Channels, Piece

BODY = "\n<function=ls>\n<parameter=path>\na <b> </tool_cal\n</parameter>\n</function>\n"
CALL = f"<tool_call>{BODY}</tool_call>"


def split(pieces: list[str], starts_thinking: bool = False) -> list[ChannelEvent]:
    channels = Channels(starts_thinking)
    events = [event for i, piece in enumerate(pieces) for event in channels.feed(i, piece)]
    return events + channels.finish()


def story(events: list[ChannelEvent]) -> list[tuple[str, str]]:
    """The events without positions, neighbouring pieces of a channel joined."""
    told: list[tuple[str, str]] = []
    for event in events:
        match event:
            case Piece(channel, text):
                if told and told[-1][0] == channel:
                    text = told.pop()[1] + text
                told.append((channel, text))
            case CallOpened(index):
                told.append((f"open {index}", ""))
            case CallClosed(index, body):
                told.append((f"call {index}", body))
            case CallCut(index, body):
                told.append((f"cut {index}", body))
    return told


def test_text_thinking_and_calls_go_their_ways() -> None:
    text = f"<think>\nlet me see\n</think>\n\nI look.\n\n{CALL}\n{CALL}\n\ndone \n"
    assert story(split([text])) == [
        ("thinking", "let me see"),
        ("text", "I look."),
        ("open 0", ""),
        ("call 0", BODY),
        ("open 1", ""),
        ("call 1", BODY),
        ("text", "done \n"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", []),
        ("\n\n  indented", [("text", "  indented")]),
        ("a\n\nb", [("text", "a\n\nb")]),
        ("a<tool_b", [("text", "a<tool_b")]),
        ("a<tool_", [("text", "a<tool_")]),
        ("a <<tool_call>x", [("text", "a <"), ("open 0", ""), ("cut 0", "x")]),
        ("</tool_call>a", [("text", "</tool_call>a")]),
        (f"{CALL}\n\n", [("open 0", ""), ("call 0", BODY)]),
        ("<think>a", [("thinking", "a")]),
    ],
)
def test_edges(text: str, told: list[tuple[str, str]]) -> None:
    assert story(split([text])) == told


def test_thinking_may_be_opened_by_the_prompt() -> None:
    assert story(split(["hm\n</think>\n\nyes"], starts_thinking=True)) == [
        ("thinking", "hm"),
        ("text", "yes"),
    ]


def test_a_call_ends_thinking_that_was_not_closed() -> None:
    assert story(split([f"<think>hm\n{CALL}ok"]))[-1] == ("text", "ok")


def test_positions_are_those_of_the_tokens() -> None:
    pieces = ["Hi", " ", "<tool", "_call>", "x", "</tool_call>", "\n", "so"]
    assert split(pieces) == [
        Piece("text", "Hi", 0),
        CallOpened(0, 2),
        CallText(0, "x", 4),
        CallClosed(0, "x", 2, 5),
        Piece("text", "so", 7),
    ]


def test_held_text_keeps_its_own_positions_when_it_is_released() -> None:
    assert split(["a", " ", "<tool", "_x"]) == [
        Piece("text", "a", 0),
        Piece("text", " ", 1),
        Piece("text", "<tool", 2),
        Piece("text", "_x", 3),
    ]


def test_text_is_passed_on_at_once() -> None:
    channels = Channels()
    assert channels.feed(0, "Hel") == [Piece("text", "Hel", 0)]
    assert channels.feed(1, "lo<") == [Piece("text", "lo", 1)]
    assert channels.feed(2, "3 ") == [Piece("text", "<", 1), Piece("text", "3", 2)]


def test_it_knows_where_it_is() -> None:
    channels = Channels()
    seen = []
    for i, piece in enumerate(["<think>", "a", "</think>", "<tool_call>", "b", "</tool_call>", "<tool_call>"]):
        channels.feed(i, piece)
        seen.append((channels.channel, channels.call_began))
    assert seen == [
        ("thinking", None),
        ("thinking", None),
        ("text", None),
        ("tool:0", 3),
        ("tool:0", 3),
        ("text", None),
        ("tool:1", 6),
    ]


FRAGMENTS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_",
    "<",
    "</",
    "call>",
    "\n",
    " ",
    "ab",
    "é",
)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join), st.data())
@example("a\n<think>", None)
def test_the_cut_does_not_matter(text: str, data: st.DataObject | None) -> None:
    whole = story(split([text]))
    assert story(split(list(text))) == whole
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert story(split(pieces)) == whole
