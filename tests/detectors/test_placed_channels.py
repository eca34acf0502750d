"""Channels of parts that are told apart already: where calls begin and end, what is held; cuts do not matter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.channels import CallClosed, CallCut, CallOpened, CallText, ChannelEvent, Piece
from detectors.parts import Part
from detectors.placed_channels import NamedCall, PlacedChannels


def text(value: str) -> Part:
    return Part("text", value)


def call(index: int, arguments: str = "", name: str = "") -> Part:
    return Part("call", arguments, index, name)


def events(*tokens: Sequence[Part], cut: bool = False) -> list[ChannelEvent]:
    channels = PlacedChannels()
    found = [event for position, parts in enumerate(tokens) for event in channels.feed(position, parts)]
    return [*found, *channels.finish(cut)]


def summary(found: list[ChannelEvent]) -> list[str]:
    """What was said, whatever the cuts."""
    told: list[str] = []
    for event in found:
        match event:
            case Piece(channel, more):
                if told and told[-1].startswith(f"{channel}:"):
                    told[-1] += more
                else:
                    told.append(f"{channel}:{more}")
            case NamedCall(index, _, name, misplaced):
                told.append(f"open {index} {name} {misplaced}".rstrip())
            case CallClosed(index, body):
                told.append(f"closed {index} {body}")
            case CallCut(index, body):
                told.append(f"cut {index} {body}")
            case _:
                pass
    return told


def test_channels_follow_each_other() -> None:
    found = events([Part("thinking", "hm")], [text("so ")], [call(0, "{", "ls")], [call(0, "}")], [text("done")])
    assert summary(found) == ["thinking:hm", "text:so ", "open 0 ls", "closed 0 {}", "text:done"]


def test_positions_are_those_of_the_tokens() -> None:
    found = events([text("a")], [call(0, "{", "ls")], [], [call(0, "}")], [])
    assert next(event for event in found if isinstance(event, CallOpened)).position == 1
    assert [event for event in found if isinstance(event, CallText) and event.text][-1].position == 3
    assert isinstance(found[-1], CallClosed)
    assert (found[-1].first, found[-1].last) == (1, 3)


def test_the_next_call_ends_the_one_before() -> None:
    found = events([call(0, "{}", "a"), call(1, "{}", "b")])
    assert summary(found) == ["open 0 a", "closed 0 {}", "open 1 b", "closed 1 {}"]


def test_white_space_around_calls_is_theirs() -> None:
    found = events([call(0, "{}", "a")], [text("\n\n")], [call(1, "{}", "b")], [text("\n")], [])
    assert summary(found) == ["open 0 a", "closed 0 {}", "open 1 b", "closed 1 {}"]
    assert summary(events([call(0, "{}", "a")], [text("\n")], [text("x")])) == ["open 0 a", "closed 0 {}", "text:\nx"]


def test_a_call_is_open_until_something_follows() -> None:
    channels = PlacedChannels()
    channels.feed(0, [call(0, '{"a"', "ls")])
    assert (channels.channel, channels.call_began, channels.body_chars) == ("tool:0", 0, 4)
    channels.feed(1, [text("x")])
    assert (channels.channel, channels.call_began) == ("text", None)


def test_a_call_that_was_cut_off() -> None:
    assert summary(events([call(0, '{"a"', "ls")], cut=True)) == ["open 0 ls", 'cut 0 {"a"']


def test_all_calls_under_one_number_are_calls_of_their_own() -> None:
    found = events([call(0, "{}", "a")], [call(0, "{}", "b")])
    assert summary(found) == ["open 0 a", "closed 0 {}", "open 1 b", "closed 1 {}"]


def test_a_name_that_is_told_twice_at_the_beginning_is_one_call() -> None:
    assert summary(events([call(0, "", "a")], [call(0, "", "a")], [call(0, "{}")])) == ["open 0 a", "closed 0 {}"]


@pytest.mark.parametrize(
    ("tokens", "misplaced"),
    [
        ([[call(1, "{}", "a")]], "open 0 a unseen index"),
        ([[call(0, "{}")]], "open 0  arguments before a name"),
        ([[call(0, "{}", "a")], [call(1, "{}", "b")], [call(0, "{}")]], "open 2  arguments after the end"),
    ],
)
def test_pieces_in_the_wrong_place(tokens: list[list[Part]], misplaced: str) -> None:
    assert misplaced in summary(events(*tokens))


@pytest.mark.parametrize(
    ("pieces", "free"),
    [
        (["a <tool_", "call>"], "a "),
        (["<", "tool_call>"], ""),
        (["a\n<function=ls>", "\n<parameter=path>"], "a\n"),
        (["<func", "tion=ls>"], ""),
        (["a <", "b"], "a "),
        (["a\n<fun"], "a\n"),
    ],
)
def test_what_may_become_a_call_is_held(pieces: list[str], free: str) -> None:
    channels = PlacedChannels()
    found = [piece for at, value in enumerate(pieces[:1]) for piece in channels.feed(at, [text(value)])]
    assert summary(found) == ([f"text:{free}"] if free else [])
    whole = summary(events(*[[text(value)] for value in pieces]))
    assert whole == [f"text:{''.join(pieces)}"]


@pytest.mark.parametrize("value", ["x = a <function", "if a < b", "see <functional>", "<function=x y z" + "w" * 80])
def test_what_cannot_become_one_is_not_held(value: str) -> None:
    channels = PlacedChannels()
    assert summary(channels.feed(0, [text(value)])) == [f"text:{value}"]


TEXTS = st.text("a<\n >", min_size=1, max_size=12) | st.sampled_from(["<tool_call>", "<function=f>\n<p"])
PARTS = st.lists(
    st.one_of(
        st.builds(text, TEXTS),
        st.builds(lambda value: Part("thinking", value), st.text("t<\n", min_size=1, max_size=6)),
        st.builds(call, st.integers(0, 2), st.text('{"}', max_size=6), st.sampled_from(["", "f", "g"])),
    ),
    max_size=8,
)


@given(PARTS, st.data())
def test_cuts_do_not_matter(parts: list[Part], data: st.DataObject) -> None:
    pieces: list[Part] = []
    for part in parts:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(part.text)), max_size=3)))
        for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(part.text)], strict=True)):
            if number == 0 or end > begin:
                name = part.name if number == 0 else ""
                pieces.append(Part(part.channel, part.text[begin:end], part.index, name))
    whole = summary(events(*[[part] for part in parts]))
    assert summary(events(*[[piece] for piece in pieces])) == whole
    assert summary(events(pieces)) == whole
