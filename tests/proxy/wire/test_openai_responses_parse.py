"""Responses requests: what they become, what is refused and under which name, what is only ignored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.conversation import ChatRequest, Decoding, Demands, Message, Sampling, Tool
from proxy.errors import RequestError
from proxy.wire.openai_responses_parse import Body, ParsedResponse, parse
from tests.proxy.wire.refusals import JSON, changed, check_refusal, refused

BODY: dict[str, Any] = {"model": "m", "input": "hi"}
LS = {"type": "function", "name": "ls"}
CD = {"type": "function", "name": "cd"}


def whole(**fields: Any) -> ParsedResponse:
    return parse(orjson.dumps(BODY | fields))


def read(**fields: Any) -> ChatRequest:
    return whole(**fields).request


def test_the_smallest_request() -> None:
    parsed = whole()
    assert parsed.request == ChatRequest("openai.responses", "m", (Message("user", "hi"),), include_usage=True)
    assert (parsed.ignored, parsed.store, parsed.sealed) == ((), True, False)


def test_all_fields() -> None:
    request = read(
        instructions="be brief",
        tools=[LS],
        tool_choice="auto",
        stream=True,
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.9,
        seed=42,
        stop="END",
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=3,
        prompt_cache_key="chat-1",
        speculative={"enabled": False},
    )
    assert request == ChatRequest(
        "openai.responses",
        "m",
        (Message("system", "be brief"), Message("user", "hi")),
        (Tool("ls"),),
        Sampling(0.5, 0.9, seed=42),
        max_tokens=7,
        stop=("END",),
        stream=True,
        include_usage=True,
        session="chat-1",
        decoding=Decoding("none"),
        logprobs=3,
    )


def test_instructions_come_before_the_first_system_message() -> None:
    parsed = whole(instructions="a", input=[{"role": "developer", "content": "b"}, {"role": "user", "content": "c"}])
    assert parsed.request.messages == (Message("system", "a\n\nb"), Message("user", "c"))
    assert parsed.history == (Message("system", "b"), Message("user", "c"))


def test_a_conversation_is_taken_up_without_its_instructions() -> None:
    earlier = {"resp_1": (Message("user", "a"), Message("assistant", "b"))}
    body = orjson.dumps(BODY | {"previous_response_id": "resp_1", "instructions": "new"})
    parsed = parse(body, earlier=earlier.get)
    assert [message.text for message in parsed.request.messages] == ["new", "a", "b", "hi"]
    assert [message.text for message in parsed.history] == ["a", "b", "hi"]


def test_an_unknown_response() -> None:
    error = refused(lambda: read(previous_response_id="resp_9"))
    assert (error.kind, error.param) == ("previous_response_not_found", "previous_response_id")
    assert "store: false" in error.message


def test_what_is_echoed() -> None:
    text = {"format": {"type": "text"}}
    assert whole(metadata={"a": "b"}, tools=[LS], text=text, top_k=3, user=None).echo == {
        "metadata": {"a": "b"},
        "tools": [LS],
        "text": text,
    }


def test_hints_are_listed_as_ignored() -> None:
    parsed = whole(
        service_tier="auto",
        reasoning={"effort": "low"},
        tools=[{"type": "web_search"}],
        include=["code_interpreter_call.outputs"],
        text={"verbosity": "low"},
    )
    assert parsed.ignored == (
        "reasoning",
        "service_tier",
        "include.code_interpreter_call.outputs",
        "text.verbosity",
        "tools[0].web_search",
    )


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["ls", "cd"]),
        ("auto", ["ls", "cd"]),
        ("none", []),
        ({"type": "allowed_tools", "mode": "auto", "tools": [CD]}, ["cd"]),
    ],
)
def test_tool_choice(choice: Any, names: list[str]) -> None:
    assert [tool.name for tool in read(tools=[LS, CD], tool_choice=choice).tools] == names


def test_demands() -> None:
    schema = {"type": "object"}
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    assert read(text=wanted).demands == Demands(text_schema=schema, text_schema_at="text.format.schema")
    assert read(tools=[LS], tool_choice="required").demands == Demands(must_call=True)
    assert read(tools=[LS, CD], tool_choice=CD).demands == Demands(must_call=True, only_tool="cd")
    assert read(tools=[LS], parallel_tool_calls=False).demands == Demands(most_calls=1)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"guided_json": {}, "grammar": "x"}, "grammar"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"input": []}, "input"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stop": [""]}, "stop"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [CD]}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "allowed_tools"}, "tool_choice"),
        ({"tool_choice": "function"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"tool_choice": {"type": "allowed_tools", "tools": "x"}}, "tool_choice.tools"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, Any], field: str) -> None:
    error = refused(lambda: read(**fields))
    assert error.param == field or error.message.startswith(f"{field}:")


@given(JSON)
def test_any_json_is_parsed_or_refused(value: Any) -> None:
    try:
        parse(orjson.dumps(value))
    except RequestError as error:
        check_refusal(error)


FIELDS = st.sampled_from([*sorted(Body.model_fields), "background", "truncation", "parallel_tool_calls"])


@given(FIELDS, JSON)
def test_any_field_is_parsed_or_refused(field: str, value: Any) -> None:
    try:
        parsed = parse(changed(BODY | {"tools": [LS]}, field, value))
    except RequestError as error:
        check_refusal(error)
    else:
        assert parsed.request.messages
