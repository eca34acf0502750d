"""Comparing transcripts: equal, and every single way to differ."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from examples.agent.transcript import Call, Transcript, Turn
from examples.demo.compare import compare


def transcript() -> Transcript:
    return Transcript(
        [
            Turn(
                text="look",
                calls=[Call("a", "read_file", '{"path": "x.py"}')],
                results=["x = 1"],
                finish_reason="tool_calls",
                token_ids=[1, 2, 3],
            ),
            Turn(text="done", finish_reason="stop", token_ids=[4, 5]),
        ],
        finished=True,
    )


def test_equal() -> None:
    found = compare(transcript(), transcript())
    assert (found.same, found.by_tokens, found.turns, found.tokens) == (True, True, 2, 5)
    assert str(found) == "identical: 5 tokens in 2 turns"


def test_call_ids_do_not_count() -> None:
    other = transcript()
    other.turns[0].calls[0] = Call("b", "read_file", '{"path": "x.py"}')
    assert compare(transcript(), other).same


def change_token(t: Transcript) -> None:
    t.turns[1].token_ids = [4, 6]


def more_tokens(t: Transcript) -> None:
    t.turns[1].token_ids = [4, 5, 6]


def fewer_tokens(t: Transcript) -> None:
    t.turns[1].token_ids = [4]


def change_text(t: Transcript) -> None:
    t.turns[0].text = "Look"


def change_arguments(t: Transcript) -> None:
    t.turns[0].calls = [Call("a", "read_file", '{"path":"x.py"}')]


def change_result(t: Transcript) -> None:
    t.turns[0].results = ["x = 2"]


def change_end(t: Transcript) -> None:
    t.turns[1].finish_reason = "length"


def drop_turn(t: Transcript) -> None:
    t.turns.pop()


@pytest.mark.parametrize(
    ("change", "difference", "tokens"),
    [
        (change_token, "token 1 of turn 2", 4),
        (more_tokens, "token 2 of turn 2", 5),
        (fewer_tokens, "token 1 of turn 2", 4),
        (change_text, "text of turn 1", 3),
        (change_arguments, "calls of turn 1", 3),
        (change_result, "results of turn 1", 3),
        (change_end, "finish reason of turn 2", 5),
        (drop_turn, "2 turns against 1", 3),
    ],
)
def test_any_difference_is_found(change: Callable[[Transcript], None], difference: str, tokens: int) -> None:
    other = copy.deepcopy(transcript())
    change(other)
    found = compare(transcript(), other)
    assert (found.same, found.difference, found.tokens) == (False, difference, tokens)
    assert difference in str(found)


def test_without_ids_it_is_not_token_for_token() -> None:
    a, b = transcript(), transcript()
    b.turns[0].token_ids = []
    found = compare(a, b)
    assert (found.same, found.by_tokens) == (True, False)
    assert "no token ids" in str(found)


def test_nothing_is_not_token_for_token() -> None:
    assert not compare(Transcript(), Transcript()).by_tokens
