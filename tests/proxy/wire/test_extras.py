"""No field is ignored in silence: of what the official clients can send, each is read, refused or listed by name."""

from __future__ import annotations

import typing
from typing import Any

import orjson
import pytest
from anthropic.types.beta import message_create_params as messages_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as responses_params

from proxy.errors import RequestError
from proxy.wire import anthropic_parse, openai_chat_parse, openai_responses_parse
from proxy.wire.extras import listed, of_parts

USER: list[Any] = [{"role": "user", "content": "hi"}]
APIS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "chat": (openai_chat_parse, {"model": "m", "messages": USER}, chat_params.CompletionCreateParamsBase),
    "responses": (
        openai_responses_parse,
        {"model": "m", "input": "x"},
        responses_params.ResponseCreateParamsBase,
    ),
    "messages": (
        anthropic_parse,
        {"model": "m", "messages": USER, "max_tokens": 9},
        messages_params.MessageCreateParamsBase,
    ),
}
IN_HEADERS = {"messages": {"betas"}}
COMES_BACK = {"responses": {"metadata", "user", "safety_identifier"}}
"""Fields that have no effect but to be in the response."""
VALUES: list[Any] = ["x", True, 3, ["x"], {"type": "x"}, [{"type": "x"}]]


def ignored(api: str, **fields: Any) -> tuple[str, ...]:
    parser, body, _ = APIS[api]
    found: tuple[str, ...] = parser.parse(orjson.dumps(body | fields)).ignored
    return found


@pytest.mark.parametrize("api", APIS)
def test_every_field_of_the_official_client_is_read_refused_or_listed(api: str) -> None:
    parser, _, params = APIS[api]
    fields = set(typing.get_type_hints(params)) - set(parser.Body.model_fields) - COMES_BACK.get(api, set())
    assert len(fields) > 10
    silent = []
    for field in sorted(fields - IN_HEADERS.get(api, set()) - {"parallel_tool_calls", "n"}):  # these two are read
        for value in VALUES:
            try:
                told = ignored(api, **{field: value})
            except RequestError as refused:
                told = (refused.param or "",)
            if not any(name == field or name.startswith(f"{field}.") for name in told):
                silent.append((field, value))
    assert not silent


def test_inside_a_chat() -> None:
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    past = {"role": "assistant", "content": "x", "annotations": [], "audio": None, "function_call": {"name": "f"}}
    tool = {"type": "function", "defer": 1, "function": {"name": "f", "returns": {"type": "string"}}}
    found = ignored(
        "chat",
        messages=[{"role": "user", "name": "bob", "content": [part, part]}, past, *USER],
        tools=[tool],
        stream_options={"include_usage": True, "include_obfuscation": True},
    )
    assert found == (
        "messages.name",
        "messages.function_call",
        "messages.content.cache_control",
        "tools.defer",
        "tools.function.returns",
        "stream_options.include_obfuscation",
    )


def test_inside_messages() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [{"type": "text", "text": "x"}]}
    cached = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    found = ignored(
        "messages",
        system=[cached],
        messages=[{"role": "user", "content": [result, cached]}],
        tools=[{"name": "f", "defer_loading": True, "eager_input_streaming": False}],
    )
    assert found == (
        "system.cache_control",
        "messages.content.is_error",
        "messages.content.cache_control",
        "tools.defer_loading",
    )


def test_inside_a_response() -> None:
    call = {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "c", "name": "f", "arguments": ""}
    output = {"type": "function_call_output", "call_id": "c", "output": "x", "caller": "me"}
    found = ignored(
        "responses",
        input=[call, output, {"role": "user", "content": [{"type": "input_text", "text": "x", "detail": "low"}]}],
        tools=[{"type": "function", "name": "f", "returns": 1}],
    )
    assert found == ("input.caller", "input.content.detail", "tools.returns")


def test_what_asks_for_nothing_is_not_listed() -> None:
    parts = [{"type": "text", "a": None, "b": False, "c": "", "d": [], "e": {}}, "text", {"type": "text", "f": 1}]
    assert list(of_parts(parts, ("type",), "x")) == ["x.f"]
    assert list(of_parts("text", (), "x")) == []
    assert listed(["b", "a"], ["a", "c"]) == ("b", "a", "c")
