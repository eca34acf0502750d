"""Chat completion requests: what they become, what is refused and under which name, what is only ignored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.conversation import ChatRequest, Demands, Message, PastCall, Sampling, Tool
from proxy.errors import RequestError
from proxy.wire.openai_chat_parse import Body, parse
from proxy.wire.parsed import Parsed
from tests.proxy.wire.refusals import JSON, changed, check_refusal, refused

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def read(**fields: Any) -> ChatRequest:
    return parse(orjson.dumps(BODY | fields)).request


def ignored(**fields: Any) -> tuple[str, ...]:
    return parse(orjson.dumps(BODY | fields)).ignored


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def test_the_smallest_request() -> None:
    assert parse(orjson.dumps(BODY)) == Parsed(ChatRequest("openai.chat", "m", (Message("user", "hi"),)), ())


def test_all_fields() -> None:
    request = read(
        tools=[function("ls", description="lists", parameters=SCHEMA, strict=True), function("now")],
        tool_choice="auto",
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=42,
        stop=["END"],
        prompt_cache_key="chat-1",
    )
    assert request == ChatRequest(
        "openai.chat",
        "m",
        (Message("user", "hi"),),
        (Tool("ls", "lists", SCHEMA, True), Tool("now")),
        Sampling(0.5, 0.9, 40, 0.05, 42),
        max_tokens=7,
        stop=("END",),
        stream=True,
        include_usage=True,
        session="chat-1",
    )


def test_penalties_and_biases() -> None:
    sampling = read(
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.1,
        logit_bias={"50": 100, "7": -100.0, "0": 0.5},
    ).sampling
    assert sampling == Sampling(
        repetition_penalty=1.1,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        logit_bias=((0, 0.5), (7, -100.0), (50, 100.0)),
    )


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20)],
)
def test_logprobs(fields: dict[str, Any], logprobs: int | None) -> None:
    assert read(**fields).logprobs == logprobs


def test_alternatives_need_logprobs() -> None:
    for logprobs in (False, None):
        raw = orjson.dumps(BODY | {"top_logprobs": 2, "logprobs": logprobs})
        error = refused(lambda raw=raw: parse(raw))  # type: ignore[misc]
        assert (error.param, "`logprobs`" in error.message) == ("top_logprobs", True)


def test_the_default_temperature_is_the_servers() -> None:
    raw = orjson.dumps(BODY)
    assert parse(raw, 0.7).request.sampling.temperature == 0.7
    assert parse(changed(BODY, "temperature", 0), 0.7).request.sampling.temperature == 0.0


def test_the_newer_name_of_the_limit_wins() -> None:
    assert read(max_tokens=7, max_completion_tokens=9).max_tokens == 9
    assert read(max_completion_tokens=9).max_tokens == 9


@pytest.mark.parametrize("top_k", [-1, 0])
def test_top_k_off(top_k: int) -> None:
    assert read(top_k=top_k).sampling.top_k == 0


def test_a_conversation() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "src"}'}}
    broken = {"id": "c2", "type": "function", "function": {"name": "ls", "arguments": '{"path": '}}
    request = read(
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call, broken]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "found"}]},
            {"role": "system", "content": "hurry"},
            {"role": "assistant", "content": "ok", "reasoning": "so", "annotations": [], "refusal": None},
            {"role": "user", "content": "go"},
        ]
    )
    calls = (PastCall("c1", "ls", {"path": "src"}), PastCall("c2", "ls", {"__raw": '{"path": '}))
    assert request.messages == (
        Message("system", "be brief\n\nbe kind"),
        Message("user", "a\nb"),
        Message("assistant", "", "hm", calls),
        Message("tool", "found", call_id="c1"),
        Message("user", "<system-reminder>\nhurry\n</system-reminder>"),
        Message("assistant", "ok", "so"),
        Message("user", "go"),
    )


@pytest.mark.parametrize(
    "said",
    [
        {"content": [{"type": "refusal", "refusal": "I cannot."}]},
        {"content": None, "refusal": "I cannot."},
        {"content": "I cannot.", "refusal": None},
    ],
)
def test_a_past_refusal_is_text(said: dict[str, Any]) -> None:
    messages = read(messages=[{"role": "assistant", **said}, *BODY["messages"]]).messages
    assert messages[0] == Message("assistant", "I cannot.")


def test_refusals_are_the_assistants() -> None:
    content = [{"type": "refusal", "refusal": "no"}]
    raw = changed(BODY, "messages", [{"role": "user", "content": content}])
    assert refused(lambda: parse(raw)).param == "messages[0].content[0]"


def test_tools_that_must_not_be_used_are_not_shown() -> None:
    assert read(tools=[function("ls")], tool_choice="none").tools == ()


def test_hints_are_ignored_by_name() -> None:
    assert ignored(user="u", store=False, reasoning_effort="low", metadata={}) == (
        "metadata",
        "reasoning_effort",
        "store",
        "user",
    )


@pytest.mark.parametrize(
    "neutral",
    [
        {"n": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0.0, "frequency_penalty": 0},
        {"logprobs": None, "top_logprobs": None, "presence_penalty": None, "repetition_penalty": 1, "min_p": 0},
        {"logit_bias": {}, "functions": [], "function_call": "auto", "modalities": ["text"], "audio": None},
        {"response_format": {"type": "text"}, "parallel_tool_calls": True, "tool_choice": "auto", "stop": None},
        {"grammar": "", "guided_json": None, "continue_final_message": False, "add_generation_prompt": True},
        {"stream": None, "stream_options": {"include_usage": None}, "tools": None, "seed": None, "max_tokens": None},
    ],
)
def test_values_that_ask_for_nothing(neutral: dict[str, Any]) -> None:
    assert read(**neutral) == read()
    assert set(ignored(**neutral)) <= {"parallel_tool_calls"}


PROMISES: list[tuple[str, Any]] = [
    ("n", 2),
    ("functions", [{"name": "ls"}]),
    ("modalities", ["audio"]),
    ("audio", {"voice": "x"}),
    ("web_search_options", {}),
    ("response_format", {"type": "xml"}),
    ("grammar", 'root ::= "a"'),
    ("json_schema", SCHEMA),
    ("structured_outputs", {"json": SCHEMA}),
    ("guided_json", SCHEMA),
    ("guided_regex", "a+"),
    ("guided_choice", ["a", "b"]),
    ("guided_grammar", "x"),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function", "function": {"name": "ls"}}),
    ("continue_final_message", True),
    ("add_generation_prompt", False),
]


@pytest.mark.parametrize(("field", "value"), PROMISES, ids=lambda value: str(value)[:30])
def test_what_cannot_be_promised_is_refused_with_a_remedy(field: str, value: Any) -> None:
    error = refused(lambda: parse(changed(BODY, field, value)))
    assert error.param == field
    assert "use " in error.message or "leave it out" in error.message


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", None, "model"),
        ("messages", None, "messages"),
        ("messages", [], "messages"),
        ("messages", ["hi"], "messages[0]"),
        ("messages", [{"role": "robot", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user", "content": {"a": 1}}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
        ("messages", [{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ("messages", [{"role": "assistant", "tool_calls": [{"id": "x"}]}], "messages[0].tool_calls[0].function"),
        ("messages", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "So"}], "messages[1]"),
        ("tools", [{"type": "function"}], "tools[0].type"),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}], "tools[0].type"),
        ("tools", [function("")], "tools[0].function.name"),
        ("tools", [function("ls"), function("ls")], "tools[1].function.name"),
        ("tools", [function("ls", parameters=[1])], "tools[0].function.parameters"),
        ("max_tokens", 0, "max_tokens"),
        ("max_completion_tokens", -1, "max_completion_tokens"),
        ("temperature", 2.5, "temperature"),
        ("temperature", "hot", "temperature"),
        ("top_p", 0, "top_p"),
        ("top_k", -2, "top_k"),
        ("min_p", 2, "min_p"),
        ("presence_penalty", 2.01, "presence_penalty"),
        ("presence_penalty", "much", "presence_penalty"),
        ("frequency_penalty", -2.01, "frequency_penalty"),
        ("repetition_penalty", 0, "repetition_penalty"),
        ("repetition_penalty", -1.1, "repetition_penalty"),
        ("repetition_penalty", 1e300, "repetition_penalty"),
        ("logit_bias", [1], "logit_bias"),
        ("logit_bias", {"50": 101}, "logit_bias"),
        ("logit_bias", {"50": -100.5}, "logit_bias"),
        ("logit_bias", {"50": "1"}, "logit_bias"),
        ("logit_bias", {"50": True}, "logit_bias"),
        ("logit_bias", {"50": None}, "logit_bias"),
        ("logit_bias", {"-1": 1}, "logit_bias"),
        ("logit_bias", {"050": 1}, "logit_bias"),
        ("logit_bias", {"\u0665": 1}, "logit_bias"),
        ("logit_bias", {"the": 1}, "logit_bias"),
        ("logit_bias", {"9" * 500: 1}, "logit_bias"),
        ("logprobs", "yes please", "logprobs"),
        ("top_logprobs", 3, "top_logprobs"),
        ("top_logprobs", -1, "top_logprobs"),
        ("top_logprobs", 21, "top_logprobs"),
        ("seed", 2**64 - 1 + 0.5, "seed"),
        ("stop", ["a"] * 17, "stop"),
        ("stop", "", "stop"),
        ("stream", "maybe", "stream"),
    ],
)
def test_bad_fields_are_named(field: str, value: Any, param: str) -> None:
    assert refused(lambda: parse(changed(BODY, field, value))).param == param


CHOICES: list[tuple[Any, Demands]] = [
    (None, Demands()),
    ("auto", Demands()),
    ("required", Demands(must_call=True)),
    ({"type": "function", "function": {"name": "cd"}}, Demands(must_call=True, only_tool="cd")),
    (
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [function("cd")]}},
        Demands(must_call=True),
    ),
]


@pytest.mark.parametrize(("choice", "demands"), CHOICES)
def test_demands_on_calls(choice: Any, demands: Demands) -> None:
    request = read(tools=[function("ls"), function("cd")], tool_choice=choice)
    assert request.demands == demands
    allowed = isinstance(choice, dict) and choice["type"] == "allowed_tools"
    assert [tool.name for tool in request.tools] == (["cd"] if allowed else ["ls", "cd"])


def test_parallel_calls_can_be_forbidden() -> None:
    assert read(tools=[function("ls")], parallel_tool_calls=False).demands == Demands(most_calls=1)
    assert read(parallel_tool_calls=False).demands == Demands()
    assert refused(lambda: read(parallel_tool_calls="no")).param == "parallel_tool_calls"


def test_demands_on_the_text() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert read(response_format=wanted).demands == Demands(
        text_schema=SCHEMA, text_schema_at="response_format.json_schema.schema"
    )
    assert read(response_format={"type": "json_object"}).demands.text_schema == {"type": "object"}
    without = {"type": "json_schema", "json_schema": {"name": "x"}}
    assert refused(lambda: read(response_format=without)).param == "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ("required", "tool_choice"),
        ("allowed_tools", "tool_choice"),
        ("function", "tool_choice"),
        ({"type": "function", "function": {"name": "rm"}}, "tool_choice"),
        ({"type": "function"}, "tool_choice.function.name"),
        ({"type": "custom", "custom": {"name": "x"}}, "tool_choice"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}, "tool_choice.allowed_tools.tools"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}}, "tool_choice.allowed_tools.mode"),
    ],
)
def test_demands_that_nothing_can_meet_are_refused(choice: Any, param: str) -> None:
    assert refused(lambda: read(tool_choice=choice)).param == param


def test_messages_do_not_repeat_what_a_client_wrote_at_length() -> None:
    for field, value in [("response_format", {"type": "x" * 9999}), ("tool_choice", "x" * 9999)]:
        assert len(refused(lambda f=field, v=value: parse(changed(BODY, f, v))).message) < 200  # type: ignore[misc]


def request_or_refusal(value: Any) -> None:
    try:
        parsed = parse(orjson.dumps(value))
    except RequestError as error:
        check_refusal(error)
    else:
        assert parsed.request.messages
        orjson.dumps(parsed.ignored)


KNOWN = sorted({*Body.model_fields, "n", "grammar", "parallel_tool_calls", "function_call"})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"])},
    optional={
        "content": JSON | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal"])}) | JSON),
        "tool_calls": JSON | st.lists(st.fixed_dictionaries({"function": st.dictionaries(st.text(), JSON)})),
        "tool_call_id": JSON,
        "refusal": JSON,
    },
)


@given(JSON)
def test_any_json(value: Any) -> None:
    request_or_refusal(value)


@given(st.dictionaries(st.sampled_from(KNOWN), JSON, max_size=6))
def test_any_value_in_any_field(fields: dict[str, Any]) -> None:
    request_or_refusal(BODY | fields)


@given(st.lists(MESSAGE, min_size=1, max_size=4))
def test_any_messages(messages: list[dict[str, Any]]) -> None:
    request_or_refusal(BODY | {"messages": messages})


@given(st.lists(st.fixed_dictionaries({}, optional={"type": JSON, "function": JSON, "custom": JSON}), max_size=3))
def test_any_tools(tools: list[Any]) -> None:
    request_or_refusal(BODY | {"tools": tools})
