"""Messages requests: what they become, what is refused and under which name, what is only ignored."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.conversation import ChatRequest, Demands, Message, PastCall, Sampling, Tool
from proxy.errors import RequestError
from proxy.wire.anthropic_parse import Body, parse
from proxy.wire.parsed import Parsed
from tests.proxy.wire.refusals import JSON, changed, check_refusal, refused

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
LS = {"name": "ls", "input_schema": SCHEMA}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
USER = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "m", "max_tokens": 7, "messages": [USER]}
BILLING = "x-anthropic-billing-header: cc_version=2.1.330.83a; cc_entrypoint=cli;"


def read(**fields: Any) -> ChatRequest:
    return parse(orjson.dumps(BODY | fields)).request


def ignored(**fields: Any) -> tuple[str, ...]:
    return parse(orjson.dumps(BODY | fields)).ignored


def said(*blocks: Any, role: str = "assistant") -> tuple[Message, ...]:
    """What blocks of one message become."""
    return read(messages=[{"role": role, "content": list(blocks)}, USER]).messages[:-1]


def test_the_smallest_request() -> None:
    request = ChatRequest("anthropic.messages", "m", (Message("user", "hi"),), max_tokens=7, include_usage=True)
    assert parse(orjson.dumps(BODY)) == Parsed(request, ())


def test_all_fields() -> None:
    request = read(
        system="be brief",
        tools=[LS | {"description": "lists", "strict": True, "type": "custom", "cache_control": {}}, {"name": "now"}],
        tool_choice={"type": "auto"},
        stop_sequences=["END"],
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stream=True,
        metadata={"user_id": json.dumps({"session_id": "s-1", "account": "secret"})},
    )
    assert request == ChatRequest(
        "anthropic.messages",
        "m",
        (Message("system", "be brief"), Message("user", "hi")),
        (Tool("ls", "lists", SCHEMA, True), Tool("now")),
        Sampling(0.5, 0.9, 40),
        max_tokens=7,
        stop=("END",),
        stream=True,
        include_usage=True,
        session="s-1",
    )


def test_sampling_fields_of_other_apis_are_honoured() -> None:
    sampling = read(
        min_p=0.1, seed=5, presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.2, logit_bias={"4": 2}
    ).sampling
    assert sampling == Sampling(0.0, 1.0, 0, 0.1, 5, 1.2, 1.0, -1.0, ((4, 2.0),))
    assert ignored(min_p=0.1, seed=5, logit_bias={}) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("logit_bias", {"x": 1}),
        ("min_p", -0.1),
        ("seed", 1.5),
        ("logprobs", True),
        ("top_logprobs", 2),
    ],
)
def test_sampling_fields_that_cannot_be_honoured_are_named(field: str, value: Any) -> None:
    assert refused(lambda: parse(changed(BODY, field, value))).param == field


def test_the_default_temperature_is_the_servers() -> None:
    assert parse(orjson.dumps(BODY), 0.7).request.sampling.temperature == 0.7
    assert parse(changed(BODY, "temperature", 0), 0.7).request.sampling.temperature == 0.0


def test_max_tokens_is_required_unless_tokens_are_counted() -> None:
    raw = changed(BODY, "max_tokens", None)
    assert refused(lambda: parse(raw)).param == "max_tokens"
    assert parse(raw, counting=True).request.max_tokens is None


def test_a_conversation() -> None:
    request = read(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "system", "content": [{"type": "text", "text": "hurry"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "thinking", "thinking": None},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "ls", "input": {"path": "src"}},
                    {"type": "tool_use", "id": "t2", "name": "ls", "input": '{"path": '},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "x.py"}]},
                    {"type": "text", "text": "and"},
                    {"type": "text", "text": "then"},
                    {"type": "tool_result", "tool_use_id": "t2", "content": "none", "is_error": True},
                    {"type": "text", "text": "go"},
                ],
            },
        ]
    )
    assert request.messages == (
        Message("user", "a\nb"),
        Message("user", "<system-reminder>\nhurry\n</system-reminder>"),
        Message(
            "assistant",
            "I look.",
            "hm",
            (PastCall("t1", "ls", {"path": "src"}), PastCall("t2", "ls", {"__raw": '{"path": '})),
        ),
        Message("tool", "x.py", call_id="t1"),
        Message("user", "and\nthen"),
        Message("tool", "none", call_id="t2"),
        Message("user", "go"),
    )


def test_the_same_text_as_string_or_block_is_the_same_message() -> None:
    """Agents send a message as a list first and as a string later; the cached prefix must survive it."""
    for role in ("user", "system", "assistant"):
        as_block = read(messages=[USER, {"role": role, "content": [{"type": "text", "text": "x"}]}, USER])
        assert as_block == read(messages=[USER, {"role": role, "content": "x"}, USER])


def test_references_to_tools_become_text() -> None:
    content = [{"type": "tool_reference", "tool_name": "grep"}, {"type": "text", "text": "ok"}]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": content}
    assert said(result, role="user") == (Message("tool", "tool grep is available\nok", call_id="t1"),)


def test_a_result_without_content() -> None:
    assert said({"type": "tool_result", "tool_use_id": "t1"}, role="user") == (Message("tool", "", call_id="t1"),)


@pytest.mark.parametrize(
    ("system", "text"),
    [
        (BILLING, ""),
        (f"{BILLING}\nbe brief\nand kind", "be brief\nand kind"),
        (f"be brief\n{BILLING}", f"be brief\n{BILLING}"),
        ([{"type": "text", "text": BILLING}, {"type": "text", "text": "be brief"}], "be brief"),
        ([{"type": "text", "text": f"{BILLING}\n\nbe brief"}], "be brief"),
        ([{"type": "text", "text": "be"}, {"type": "text", "text": "brief", "cache_control": {}}], "be\nbrief"),
        ([], ""),
        (None, ""),
    ],
)
def test_the_billing_header_is_no_instruction(system: Any, text: str) -> None:
    messages = read(system=system).messages
    assert messages == ((Message("system", text), Message("user", "hi")) if text else (Message("user", "hi"),))


@pytest.mark.parametrize(
    ("thinking", "shown", "listed"),
    [
        (None, True, ()),
        ({"type": "disabled"}, False, ()),
        ({"type": "enabled", "budget_tokens": 31999}, True, ("thinking",)),
        ({"type": "adaptive"}, True, ("thinking",)),
    ],
)
def test_thinking(thinking: Any, shown: bool, listed: tuple[str, ...]) -> None:
    parsed = parse(changed(BODY, "thinking", thinking))
    assert (parsed.thinking, parsed.ignored) == (shown, listed)


def test_tools_that_must_not_be_used_are_not_shown() -> None:
    assert read(tools=[LS, SEARCH], tool_choice={"type": "none"}).tools == ()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("web_search_20250305", "web_search"),
        ("web_fetch_20250910", "web_fetch"),
        ("code_execution_20250825", "code_execution"),
        ("tool_search_tool_regex_20251119", "tool_search_tool_regex"),
        ("mcp_toolset", None),
    ],
)
def test_tools_that_others_run_are_left_out(kind: str, name: str | None) -> None:
    hosted = {"type": kind} | ({"name": name} if name else {})
    parsed = parse(orjson.dumps(BODY | {"tools": [hosted, LS]}))
    assert [tool.name for tool in parsed.request.tools] == ["ls"]
    assert parsed.ignored == (f"tools.{name or kind}",)
    error = refused(lambda: parse(changed(BODY, "tools", [hosted])))
    assert (error.param, "declare tools of your own" in error.message) == ("tools", True)


@pytest.mark.parametrize("kind", ["bash_20250124", "text_editor_20250728", "memory_20250818", "web_searcher"])
def test_tools_without_a_schema_of_their_own_are_refused(kind: str) -> None:
    """The client runs them, so leaving them out would break it; the model was never told their arguments."""
    error = refused(lambda: parse(changed(BODY, "tools", [LS, {"type": kind, "name": "x"}])))
    assert (error.param, "input_schema" in error.message) == ("tools[1].type", True)


@pytest.mark.parametrize(
    ("user_id", "session"),
    [
        ("user_1f_account_2e_session_0b-3d", "0b-3d"),
        ('{"session_id": "s-1"}', "s-1"),
        ('{"device_id": "d"}', ""),
        ("somebody", ""),
        ("[1]", ""),
        (None, ""),
        (5, ""),
    ],
)
def test_session_keys(user_id: Any, session: str) -> None:
    assert read(metadata={"user_id": user_id}).session == session


def test_hints_are_ignored_by_name() -> None:
    fields = {"context_management": {"edits": []}, "output_config": {"effort": "high"}, "service_tier": "auto"}
    assert ignored(**fields) == ("context_management", "output_config.effort", "service_tier")
    assert ignored(metadata={"user_id": "x"}, zeta=1) == ("metadata", "zeta")


@pytest.mark.parametrize(
    "neutral",
    [
        {"mcp_servers": [], "output_format": None, "output_config": {"format": None}, "metadata": None},
        {"tools": None, "tool_choice": None, "stop_sequences": None, "temperature": None, "stream": False},
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": False}, "system": ""},
    ],
)
def test_values_that_ask_for_nothing(neutral: dict[str, Any]) -> None:
    assert read(**neutral) == read()


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("mcp_servers", [{"type": "url", "url": "https://x.example"}], "mcp_servers"),
        ("tool_choice", {"type": "any"}, "tool_choice"),
        ("tool_choice", {"type": "tool", "name": "ls"}, "tool_choice"),
        ("messages", [USER, {"role": "assistant", "content": "So"}], "messages[1]"),
    ],
)
def test_what_cannot_be_promised_is_refused_with_a_remedy(field: str, value: Any, param: str) -> None:
    error = refused(lambda: parse(changed(BODY, field, value)))
    assert error.param == param
    assert any(
        remedy in error.message
        for remedy in ("leave it out", "use 'auto'", "declare it", "declare the tools", "remove it")
    )


def test_a_conversation_that_ends_with_the_assistant_can_be_counted() -> None:
    messages = [USER, {"role": "assistant", "content": "So"}]
    assert parse(changed(BODY, "messages", messages), counting=True).request.messages[-1].text == "So"


def message(*blocks: Any, role: str = "assistant") -> list[Any]:
    return [{"role": role, "content": list(blocks)}, USER]


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("model", None, "model"),
        ("max_tokens", 0, "max_tokens"),
        ("messages", [], "messages"),
        ("messages", ["hi"], "messages[0]"),
        ("messages", [{"role": "tool", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user"}], "messages[0].content"),
        ("messages", [{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
        ("messages", message("hi"), "messages[0].content"),
        ("messages", message({"type": "text"}), "messages[0].content[0]"),
        ("messages", message({"type": "text", "text": "a"}, {"type": "text"}), "messages[0].content[1]"),
        ("messages", message({"type": "server_tool_use"}), "messages[0].content[0]"),
        ("messages", message({"type": "tool_use", "id": "x"}), "messages[0].content[0]"),
        ("messages", message({"type": "image", "source": {}}, role="user"), "messages[0].content[0]"),
        ("messages", message({"type": "tool_result"}, role="user"), "messages[0].content[0].tool_use_id"),
        (
            "messages",
            message({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image"}]}, role="user"),
            "messages[0].content[0].content[0]",
        ),
        ("system", 3, "system"),
        ("system", [{"type": "image"}], "system[0]"),
        ("tools", [{"input_schema": SCHEMA}], "tools[0].name"),
        ("tools", [LS, LS], "tools[1].name"),
        ("tools", [{"name": "ls", "input_schema": [1]}], "tools[0].input_schema"),
        ("tool_choice", "auto", "tool_choice"),
        ("stop_sequences", "END", "stop_sequences"),
        ("stop_sequences", [""], "stop_sequences"),
        ("temperature", 3, "temperature"),
        ("top_p", 0, "top_p"),
        ("top_k", -1, "top_k"),
        ("stream", "maybe", "stream"),
        ("thinking", True, "thinking"),
        ("metadata", "x", "metadata"),
    ],
)
def test_bad_fields_are_named(field: str, value: Any, param: str) -> None:
    assert refused(lambda: parse(changed(BODY, field, value))).param == param


def test_messages_do_not_repeat_what_a_client_wrote_at_length() -> None:
    long = "x" * 9999
    for field, value in [
        ("tool_choice", {"type": long}),
        ("tools", [{"name": "x", "type": long}]),
        ("messages", message({"type": long})),
    ]:
        assert len(refused(lambda f=field, v=value: parse(changed(BODY, f, v))).message) < 200  # type: ignore[misc]


def request_or_refusal(value: Any, counting: bool = False) -> None:
    try:
        parsed = parse(orjson.dumps(value), counting=counting)
    except RequestError as error:
        check_refusal(error)
    else:
        orjson.dumps([parsed.ignored, parsed.request.session])


KINDS = ["text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image", "tool_reference"]
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional={"text": JSON, "thinking": JSON, "id": JSON, "name": JSON, "input": JSON, "content": JSON},
) | st.fixed_dictionaries({"type": st.just("tool_result"), "tool_use_id": st.text(), "content": JSON})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": JSON | st.lists(BLOCK, max_size=3)}
)
TOOL = st.fixed_dictionaries({}, optional={"name": JSON, "type": st.sampled_from(KINDS) | JSON, "input_schema": JSON})


@given(JSON, st.booleans())
def test_any_json(value: Any, counting: bool) -> None:
    request_or_refusal(value, counting)


@given(st.dictionaries(st.sampled_from(sorted(Body.model_fields)), JSON, max_size=6), st.booleans())
def test_any_value_in_any_field(fields: dict[str, Any], counting: bool) -> None:
    request_or_refusal(BODY | fields, counting)


@given(st.lists(MESSAGE, min_size=1, max_size=4))
def test_any_messages(messages: list[dict[str, Any]]) -> None:
    request_or_refusal(BODY | {"messages": messages})


@given(st.lists(TOOL, max_size=3))
def test_any_tools(tools: list[Any]) -> None:
    request_or_refusal(BODY | {"tools": tools})


@given(JSON | st.lists(BLOCK, max_size=3), st.dictionaries(st.sampled_from(["user_id"]), JSON | st.text()))
def test_any_system_and_metadata(system: Any, metadata: dict[str, Any]) -> None:
    request_or_refusal(BODY | {"system": system, "metadata": metadata})


TWO = [{"name": "ls", "input_schema": SCHEMA}, {"name": "cd", "strict": True}]


@pytest.mark.parametrize(
    ("choice", "demands"),
    [
        ({"type": "auto"}, Demands()),
        ({"type": "any"}, Demands(must_call=True)),
        ({"type": "tool", "name": "cd"}, Demands(must_call=True, only_tool="cd")),
        ({"type": "auto", "disable_parallel_tool_use": True}, Demands(most_calls=1)),
        ({"type": "any", "disable_parallel_tool_use": True}, Demands(must_call=True, most_calls=1)),
    ],
)
def test_demands_on_calls(choice: dict[str, Any], demands: Demands) -> None:
    assert read(tools=TWO, tool_choice=choice).demands == demands


def test_demands_on_the_text() -> None:
    wanted = {"type": "json_schema", "schema": SCHEMA}
    assert read(output_config={"format": wanted}).demands == Demands(
        text_schema=SCHEMA, text_schema_at="output_config.format.schema"
    )
    assert read(output_format=wanted).demands.text_schema_at == "output_format.schema"
    assert refused(lambda: read(output_format={"type": "xml"})).param == "output_format"
    assert (
        refused(lambda: read(output_config={"format": {"type": "json_schema"}})).param == "output_config.format.schema"
    )
