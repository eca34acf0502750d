"""Chunks as tokens: ids as they come, everything said once and in order, ids that are made from the text alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.base import Token
from proxy.backends.lane_tokens import MADE, WAITING, LaneTokens
from proxy.lanes.chunks import CallPiece, Chunk, Scored


def taken(*chunks: Chunk, ids: bool = True) -> list[Token]:
    tokens = LaneTokens(ids)
    return [token for chunk in chunks for token in tokens.take(chunk)] + tokens.finish()


def said(tokens: list[Token]) -> list[str]:
    return [f"{part.channel}:{part.name}{part.text}" for token in tokens for part in token.parts or ()]


def test_what_is_said_is_on_the_last_tokens() -> None:
    tokens = taken(Chunk(text="so", token_ids=(1, 2, 3)))
    assert [(token.id, token.text) for token in tokens] == [(1, ""), (2, ""), (3, "so")]


def test_a_text_is_cut_between_its_tokens() -> None:
    assert [token.text for token in taken(Chunk(text="it.\n<func", token_ids=(1, 2, 3)))] == ["it.\n", "<", "func"]
    assert [token.text for token in taken(Chunk(text="a b", token_ids=(1, 2, 3)))] == ["", "a", " b"]


def test_several_channels_in_one_chunk() -> None:
    chunk = Chunk(text="b", thinking="a", calls=(CallPiece(0, "ls", "{"),), token_ids=(1, 2))
    tokens = taken(chunk)
    assert [len(token.parts or ()) for token in tokens] == [2, 1]
    assert said(tokens) == ["thinking:a", "text:b", "call:ls{"]


def test_tokens_that_say_nothing() -> None:
    (token,) = taken(Chunk(token_ids=(7,)))
    assert (token.id, token.text, token.parts) == (7, "", ())


def test_the_end_of_the_turn_is_no_token() -> None:
    assert [t.id for t in LaneTokens(True).take(Chunk(token_ids=(1, 2), finish="stop"), ends_turn=True)] == [1]
    assert LaneTokens(True).take(Chunk(token_ids=(), finish="stop"), ends_turn=True) == []


def test_what_comes_before_its_ids_waits_for_them() -> None:
    tokens = LaneTokens(True)
    assert tokens.take(Chunk(thinking="a")) == []
    assert [token.id for token in tokens.take(Chunk(text="b", token_ids=(5, 6)))] == [5, 6]


def test_but_not_for_ever() -> None:
    tokens = LaneTokens(True)
    assert all(tokens.take(Chunk(text="a")) == [] for _ in range(WAITING))
    assert len(tokens.take(Chunk(text="b"))) == WAITING + 1
    assert [token.text for token in LaneTokens(True).take(Chunk(text="a", finish="stop"))] == ["a"]


def test_made_ids_depend_on_the_text_alone() -> None:
    first, second = taken(Chunk(text="hello world"), ids=False), taken(Chunk(text="world hello"), ids=False)
    assert [token.text for token in first] == ["hell", "o", " worl", "d"]
    assert {token.id for token in first} & {token.id for token in second}
    assert all(token.id >= MADE for token in first)


def test_ids_of_a_lane_that_is_not_known_to_tell_them_are_not_believed() -> None:
    assert [token.id >= MADE for token in taken(Chunk(text="a", token_ids=(1,)), ids=False)] == [True]


def test_log_probabilities_go_to_their_tokens() -> None:
    scored = (Scored("so", b"so", -0.5, ((b"se", -1.0),)), Scored(" on", b" on", -0.25))
    tokens = taken(Chunk(text="so on", token_ids=(1, 2), scored=scored))
    assert [(token.text, token.logprob, token.data) for token in tokens] == [
        ("so", -0.5, b"so"),
        (" on", -0.25, b" on"),
    ]
    assert tokens[0].top[0].data == b"se"
    assert [token.logprob for token in taken(Chunk(text="so on", scored=scored), ids=False)] == [-0.5, -0.25]


@pytest.mark.parametrize("text", [" " * 4096, "\n" * 4096, "a b " * 250_000])
def test_no_token_says_a_page_and_no_chunk_is_a_million_tokens(text: str) -> None:
    tokens = taken(Chunk(text=text), ids=False)
    assert "".join(token.text for token in tokens) == text
    assert max(len(token.text) for token in tokens) <= 64
    assert len(tokens) <= 16_384


TEXTS = st.text(max_size=12)
CHUNKS = st.builds(
    Chunk,
    text=TEXTS,
    thinking=TEXTS,
    calls=st.lists(st.builds(CallPiece, st.integers(0, 1), st.sampled_from(["", "f"]), TEXTS), max_size=2).map(tuple),
    token_ids=st.none() | st.lists(st.integers(0, 9), max_size=5).map(tuple),
)


@given(st.lists(CHUNKS, max_size=6), st.booleans())
def test_everything_is_said_once_and_in_order(chunks: list[Chunk], ids: bool) -> None:
    tokens = taken(*chunks, ids=ids)
    told = [(part.channel, part.text, part.name) for token in tokens for part in token.parts or ()]
    for channel, of in (("text", lambda c: c.text), ("thinking", lambda c: c.thinking)):
        assert "".join(text for name, text, _ in told if name == channel) == "".join(map(of, chunks))
    pieces = [piece for chunk in chunks for piece in chunk.calls]
    assert "".join(text for name, text, _ in told if name == "call") == "".join(piece.arguments for piece in pieces)
    assert [name for _, _, name in told if name] == [piece.name for piece in pieces if piece.name]
    if ids:
        given_ids = [number for chunk in chunks for number in chunk.token_ids or ()]
        assert [token.id for token in tokens if token.id < MADE] == given_ids
    assert all(token.text == "".join(part.text for part in token.parts or ()) for token in tokens)
