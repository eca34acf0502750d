"""Items of a conversation become messages: turns are joined, systems folded, broken history survives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.conversation import Message, PastCall
from proxy.errors import RequestError
from proxy.wire.responses_input import SEALED, read_input, seal, unseal
from tests.proxy.wire.refusals import JSON, check_refusal, refused

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": '{"path":"."}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "x.py"}


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def reasoned(**fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], **fields}


def test_text_is_a_user_message() -> None:
    assert read_input("hi") == (Message("user", "hi"),)


def test_one_turn_is_one_message() -> None:
    thought = reasoned(content=[{"type": "reasoning_text", "text": "hm"}])
    assert read_input([USER, thought, said("I look."), CALL, {**CALL, "call_id": "c2"}, OUTPUT]) == (
        Message("user", "hi"),
        Message(
            "assistant",
            "I look.",
            "hm",
            (PastCall("c1", "ls", {"path": "."}), PastCall("c2", "ls", {"path": "."})),
        ),
        Message("tool", "x.py", call_id="c1"),
    )


@pytest.mark.parametrize(
    "items",
    [[said("a"), CALL, said("b")], [said("a"), reasoned(summary=[{"type": "summary_text", "text": "t"}]), said("b")]],
)
def test_a_turn_that_is_over_is_not_added_to(items: list[Any]) -> None:
    assert [m.text for m in read_input(items)] == ["a", "b"]


def test_systems() -> None:
    items = [
        {"role": "developer", "content": "a"},
        {"role": "system", "content": "b"},
        USER,
        {"role": "developer", "content": "c"},
    ]
    assert read_input(items) == (
        Message("system", "a\n\nb"),
        Message("user", "hi"),
        Message("user", "<system-reminder>\nc\n</system-reminder>"),
    )


def test_calls_of_namespaces_and_custom_tools() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c3", "name": "patch", "input": "***"}
    done = {"type": "custom_tool_call_output", "call_id": "c3", "output": [{"type": "input_text", "text": "ok"}]}
    messages = read_input([{**CALL, "namespace": "fs"}, custom, done])
    assert [(call.name, call.arguments) for call in messages[0].calls] == [
        ("fs__ls", {"path": "."}),
        ("patch", {"input": "***"}),
    ]
    assert messages[1] == Message("tool", "ok", call_id="c3")


def test_broken_arguments_stay_visible() -> None:
    (message,) = read_input([{**CALL, "arguments": '{"path":'}])
    assert message.calls[0].arguments == {"__raw": '{"path":'}


def test_reasoning_comes_back_in_any_form() -> None:
    assert read_input([reasoned(encrypted_content=seal("hm \u20ac"))])[0].thinking == "hm \u20ac"
    assert read_input([reasoned(encrypted_content="somebody else's")])[0].thinking == ""
    assert read_input([reasoned(encrypted_content=SEALED + "!")])[0].thinking == ""


def test_a_refusal_is_text() -> None:
    part = {"type": "refusal", "refusal": "no"}
    assert read_input([{"role": "assistant", "content": [part]}])[0].text == "no"


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"role": "tool", "content": "x"}, "input[0].role"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "input[0].content[0]"),
        ({"type": "item_reference", "id": "x"}, "input[0]"),
        ({"type": "local_shell_call"}, "input[0].type"),
        ({"type": "function_call", "name": "ls"}, "input[0].call_id"),
        ({"type": "function_call", "call_id": "c"}, "input[0].name"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        ({"role": "user", "content": 3}, "input[0].content"),
    ],
)
def test_refusals_name_the_field(item: dict[str, Any], field: str) -> None:
    assert refused(lambda: read_input([item])).message.startswith(f"{field}:")


@given(st.text())
def test_seals_open(text: str) -> None:
    assert unseal(seal(text)) == text


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(("type", "role", "content", "call_id", "name", "output", "summary", "arguments")),
            JSON
            | st.sampled_from(
                ("message", "user", "reasoning", "function_call", "function_call_output", "custom_tool_call")
            ),
            max_size=5,
        ),
        max_size=4,
    )
)
def test_whatever_is_sent_the_only_error_is_a_refusal(items: list[dict[str, Any]]) -> None:
    try:
        read_input(items)
    except RequestError as error:
        check_refusal(error)
