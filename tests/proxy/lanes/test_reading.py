"""Chunks in every dialect, and chunks that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lanes.chunks import CallPiece, Chunk, Counts, Scored
from proxy.lanes.reading import MOST_SAID, TOLD, Malformed, error_text, read_chunk


def read(**body: Any) -> Chunk:
    return read_chunk(json.dumps(body))


def choice(**fields: Any) -> Chunk:
    return read(choices=[{"index": 0, "delta": {}, "finish_reason": None} | fields])


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_has_two_names(field: str) -> None:
    assert choice(delta={field: "hm", "content": None}) == Chunk(thinking="hm")


def test_token_ids_of_a_chunk_that_says_nothing() -> None:
    assert choice(token_ids=[151657, 151657]) == Chunk(token_ids=(151657, 151657))
    assert choice(token_ids=[]).token_ids == ()
    assert choice(token_ids=None).token_ids is None


@pytest.mark.parametrize("ids", [[1, "2"], [True], [-1], [1 << 40], list(range(5000)), "12"])
def test_ids_that_are_none_are_not_told(ids: Any) -> None:
    assert choice(token_ids=ids).token_ids is None


def test_calls_in_pieces() -> None:
    first = {"index": 0, "id": "c", "type": "function", "function": {"name": "ls", "arguments": ""}}
    more = {"index": 0, "function": {"name": None, "arguments": '{"a'}}
    assert choice(delta={"tool_calls": [first, more]}).calls == (CallPiece(0, "ls"), CallPiece(0, "", '{"a'))


def test_arguments_as_an_object_are_its_text() -> None:
    assert choice(delta={"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}).calls == (
        CallPiece(0, "f", '{"a":1}'),
    )


@pytest.mark.parametrize(("arguments", "text"), [([1], "[1]"), (7, "7"), (False, "false"), (None, ""), ("", "")])
def test_arguments_that_are_no_object_do_not_pass_for_none(arguments: Any, text: str) -> None:
    (call,) = choice(delta={"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}).calls
    assert call.arguments == text


def test_arguments_that_are_nested_too_deep_are_refused() -> None:
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    with pytest.raises(Malformed, match="too deep"):
        choice(delta={"tool_calls": [{"function": {"name": "f", "arguments": deep}}]})


def test_a_chunk_says_no_more_than_a_whole_response() -> None:
    half = "a" * (MOST_SAID // 2)
    assert len(choice(delta={"content": half, "reasoning": half}).text) == MOST_SAID // 2
    call = {"function": {"name": "f", "arguments": half}}
    for delta in ({"content": half * 2 + "a"}, {"content": half, "tool_calls": [call]}):
        with pytest.raises(Malformed, match="characters"):
            choice(delta=delta)


@pytest.mark.parametrize("index", [-1, "0", True, 1 << 20])
def test_a_call_without_a_usable_index_is_refused(index: Any) -> None:
    with pytest.raises(Malformed):
        choice(delta={"tool_calls": [{"index": index, "function": {"name": "f"}}]})


@pytest.mark.parametrize("name", ["stop_reason", "matched_stop"])
def test_what_ended_it(name: str) -> None:
    found = choice(finish_reason="stop", **{name: "END"})
    assert (found.finish, found.stop) == ("stop", "END")
    assert choice(finish_reason="stop", **{name: 151645}).stop is None


def test_prompt_ids_are_counted() -> None:
    assert read(prompt_token_ids=[1, 2, 3], choices=[]).prompt_tokens == 3


def test_usage_of_vllm_with_its_drafts() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
    drafts = {"speculative_decoding": {"num_draft_tokens": 6, "num_accepted_draft_tokens": 3}}
    assert read(choices=[], usage=usage, metrics=drafts).counts == Counts(9, 4, 8, 6, 3)


def test_timings_of_llama_cpp() -> None:
    timings = {
        "cache_n": 5, "prompt_n": 2, "prompt_ms": 3.5, "predicted_n": 7, "draft_n": 4, "draft_n_accepted": 1,
    }  # fmt: skip
    assert read(choices=[], timings=timings).counts == Counts(7, 7, 5, 4, 1, 3.5)


@pytest.mark.parametrize("lie", [-1, 1 << 31, 10**30, 1.5, True, "9", None])
def test_counts_that_cannot_be_are_not_told(lie: Any) -> None:
    usage = {"prompt_tokens": lie, "completion_tokens": lie, "prompt_tokens_details": {"cached_tokens": lie}}
    assert read(choices=[], usage=usage).counts == Counts()


def test_no_usage_is_none() -> None:
    assert choice().counts is None
    assert read(choices=[], usage=None).counts is None


def test_log_probabilities_with_their_bytes() -> None:
    token = {"token": "é", "bytes": [195, 169], "logprob": -0.5, "top_logprobs": [{"token": "e", "logprob": -1}]}
    assert choice(logprobs={"content": [token]}).scored == (Scored("é", b"\xc3\xa9", -0.5, ((b"e", -1.0),)),)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "boom", "type": "server_error", "code": 500}},
        {"object": "error", "message": "boom", "code": 500},
        {"error": {"object": "error", "message": "boom", "code": 500}},
        {"error": {"error": {"message": "boom"}, "code": 500}},
    ],
)
def test_errors_of_every_shape(body: Any) -> None:
    assert read(**body) == Chunk(error="boom", error_status=500)


def test_an_error_that_says_nothing() -> None:
    assert read(error=None).error == "it does not say what"
    assert error_text([1]) == "it does not say what"


def test_no_error_beside_a_chunk() -> None:
    assert read(error=None, choices=[{"delta": {"content": "a"}}]) == Chunk(text="a")


def test_an_error_cannot_command_a_terminal_or_tell_a_secret() -> None:
    assert error_text({"error": "\x1b[31mno\x00\n"}) == "[31mno"
    told = "x" * (TOLD - 6) + " k3y-of-ours is wrong"
    assert "k3y" not in error_text({"error": {"message": told}}, ["k3y-of-ours"])
    assert read_chunk('{"error": "k3y-of-ours is wrong"}', ["k3y-of-ours"]).error == "[hidden] is wrong"


NAMES = st.sampled_from(
    ["choices", "delta", "content", "tool_calls", "index", "function", "name", "arguments", "usage", "timings", "error",
     "logprobs", "prompt_tokens", "token_ids", "bytes", "token", "logprob", "top_logprobs", "finish_reason", "message"]
)  # fmt: skip
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, JSON, max_size=4), JSON, JSON)
def test_any_json_is_a_chunk_or_malformed(body: dict[str, Any], delta: Any, inside: Any) -> None:
    for value in (body, {"choices": [{"delta": delta}]}, {"choices": [{"delta": {"tool_calls": [inside]}}]}):
        try:
            found = read_chunk(json.dumps(value))
        except Malformed:
            continue
        found.text.encode()
