"""The scored tokens of a text among those of its chunk, also where characters are cut."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.parts import Part
from proxy.backends.base import Token
from proxy.backends.lane_scores import MOST_TRIES, is_part_of_character, spelt, text_span
from proxy.backends.lane_tokens import LaneTokens
from proxy.lanes.chunks import CallPiece, Chunk, Scored


def scored(*data: bytes) -> tuple[Scored, ...]:
    return tuple(Scored(each.decode("utf-8", "replace"), each, -0.5 - at) for at, each in enumerate(data))


def text(said: str) -> Part:
    return Part("text", said)


THINKS, CALLS = Part("thinking", "so"), Part("call", "{", 0, "ls")


@pytest.mark.parametrize(
    ("parts", "data", "span"),
    [
        ([text("a b")], (b"a", b" b"), (0, 2)),
        ([text("a")], (b"</think>", b"\n", b"a"), (2, 3)),
        ([text("a"), CALLS], (b"a", b"<tool_call>", b"ls"), (0, 1)),
        ([THINKS, text("so")], (b"so", b"</think>", b"so"), (2, 3)),
        ([text("a"), text("b")], (b"a", b"b"), (0, 2)),
        ([text("\u00e9")], (b"\xc3", b"\xa9"), (0, 2)),
        ([text("ab")], (b"a",), None),
        ([text("b")], (b"ab",), None),
        ([text("a"), CALLS, text("b")], (b"a", b"b"), None),
        ([CALLS], (b"a",), None),
        ([text("a")], (), None),
        ([text("\ud800")], (b"?",), None),
    ],
)
def test_where_a_text_is(parts: list[Part], data: tuple[bytes, ...], span: tuple[int, int] | None) -> None:
    assert text_span(parts, scored(*data)) == span


def test_a_chunk_that_fits_nowhere_is_given_up() -> None:
    assert text_span([text("aa")], scored(b"x" + b"a" * (MOST_TRIES * 2), b"a", b"a")) is None


def test_part_of_a_character() -> None:
    assert [is_part_of_character(each) for each in scored(b"a", b"\xc3", b"")] == [False, True, False]


def test_what_each_completes() -> None:
    assert list(spelt(scored(b"a\xc3", b"\xa9", b"b"))) == ["a", "\u00e9", "b"]


def taken(chunk: Chunk, ids: bool) -> list[Token]:
    tokens = LaneTokens(ids)
    return [*tokens.take(chunk), *tokens.finish()]


@given(
    st.text(max_size=6),
    st.text(min_size=1, max_size=6),
    st.lists(st.integers(1, 3), max_size=6),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_nothing_is_lost_or_scored_otherwise(
    thinking: str, said: str, cuts: list[int], calls: bool, swallowed: bool, ids: bool
) -> None:
    """However the text is cut into tokens."""
    data, edges = said.encode(), [0, *accumulate(cuts)]
    pieces = [data[a:b] for a, b in zip(edges, [*edges[1:], len(data)], strict=True) if data[a:b]]
    told = [*([thinking.encode()] if thinking else []), *([b"</t>"] if swallowed else []), *pieces]
    told += [b"<c>"] if calls else []
    entries = scored(*told)
    chunk = Chunk(
        text=said,
        thinking=thinking,
        calls=(CallPiece(0, "ls", "{}"),) if calls else (),
        token_ids=tuple(range(len(told))) if ids else None,
        scored=entries,
    )
    tokens = taken(chunk, ids)
    parts = [part for token in tokens for part in token.parts or ()]
    for channel, whole in (("thinking", thinking), ("text", said), ("call", "{}" if calls else "")):
        assert "".join(part.text for part in parts if part.channel == channel) == whole
    order = [part.channel for part in parts]
    assert order == sorted(order, key=["thinking", "text", "call"].index)
    if ids:
        assert [token.id for token in tokens] == list(range(len(told)))
    numbers = {entry.logprob: entry.data for entry in entries}
    assert all(token.data == numbers[token.logprob] for token in tokens if token.logprob is not None)
    if not thinking.endswith(said) and said not in thinking and said not in "</t>":
        assert b"".join(token.data for token in tokens if token.logprob is not None) == data


def test_a_call_that_waits_for_its_ids_is_said_before_the_text() -> None:
    tokens = LaneTokens(True)
    assert tokens.take(Chunk(calls=(CallPiece(0, "ls"),))) == []
    (token,) = tokens.take(Chunk(text="a", token_ids=(7,), scored=scored(b"a")))
    assert [(part.channel, part.name + part.text) for part in token.parts or ()] == [("call", "ls"), ("text", "a")]
    assert (token.id, token.logprob) == (7, -0.5)
