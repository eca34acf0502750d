"""The numbers of a turn, whichever server they come from, and arguments that are no object."""

from __future__ import annotations

import pytest

from examples.agent.transcript import Call, Transcript, Turn


def test_arguments_are_read_as_an_object() -> None:
    assert Call("c", "edit_file", '{"path": "a.py", "n": 1}').parsed() == {"path": "a.py", "n": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", '"a.py"', "null", "3"])
def test_anything_else_than_an_object_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        Call("c", "read_file", text).parsed()


def test_tokens_are_the_servers_count_else_the_ids() -> None:
    assert Turn(usage={"completion_tokens": 7}, token_ids=[1, 2]).tokens == 7
    assert Turn(token_ids=[1, 2, 3]).tokens == 3
    assert Turn(usage={"completion_tokens": None}, token_ids=[1]).tokens == 1
    assert Turn().tokens == 0


def test_speed_is_the_servers_else_measured_from_the_first_token() -> None:
    measured = Turn(timings={"predicted_ms": 500.0, "predicted_n": 40}, seconds=9.0, token_ids=[1])
    assert measured.tokens_per_second == 80.0
    assert Turn(timings={"predicted_ms": 500.0}, token_ids=[1, 2]).tokens_per_second == 4.0
    assert Turn(token_ids=[1] * 6, seconds=5.0, first_token_s=2.0).tokens_per_second == 2.0
    assert Turn(token_ids=[1] * 6).tokens_per_second == 0.0
    assert Turn(token_ids=[1] * 6, seconds=1.0, first_token_s=1.0).tokens_per_second == 0.0
    assert Turn(token_ids=[1] * 6, seconds=1.0, first_token_s=2.0).tokens_per_second == 0.0


def test_drafts_are_zero_where_the_server_is_silent() -> None:
    turn = Turn(timings={"draft_n": 9, "draft_n_accepted": 4})
    assert (turn.drafted, turn.accepted) == (9, 4)
    assert (Turn().drafted, Turn().accepted) == (0, 0)


def test_a_transcript_adds_up_its_turns() -> None:
    turns = [
        Turn(token_ids=[1, 2], incidents=["drift.logits"], seconds=1.5),
        Turn(token_ids=[3], usage={"completion_tokens": 5}, seconds=0.5),
        Turn(incidents=["tool.invalid", "loop"]),
    ]
    transcript = Transcript(turns)
    assert transcript.token_ids == [[1, 2], [3], []]
    assert transcript.tokens == 7
    assert transcript.seconds == 2.0
    assert transcript.incidents == ["drift.logits", "tool.invalid", "loop"]
    assert (transcript.finished, transcript.tests_green) == (False, None)


def test_turns_do_not_share_their_lists() -> None:
    Turn().results.append("x")
    Transcript().turns.append(Turn())
    assert Turn().results == []
    assert Transcript().turns == []
