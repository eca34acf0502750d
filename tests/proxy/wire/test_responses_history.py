"""Items of the Responses API as messages; and one agent loop in the shapes of all three APIs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detectors.call_history import find_loop
from proxy.conversation import Message, PastCall
from proxy.errors import RequestError
from proxy.wire import anthropic_parse, openai_chat_parse
from proxy.wire.responses_history import messages_of


def test_a_plain_text_is_the_users() -> None:
    assert messages_of("hi") == (Message("user", "hi"),)


def test_items_become_messages() -> None:
    """As Codex sends them: developer text, reasoning, text and two calls of one response, then their outputs."""
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "be good"}]},
        {"role": "user", "content": "fix it"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": None},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": '{"command": "ls"}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin Patch"},
        {"type": "function_call_output", "call_id": "c1", "output": "a.py"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "done"}]},
        {"type": "function_call", "call_id": "c3", "name": "close", "namespace": "ns", "arguments": "{bad"},
        {"role": "system", "content": "later"},
    ]
    assert messages_of(items) == (
        Message("system", "be good"),
        Message("user", "fix it"),
        Message(
            "assistant",
            "I look.",
            "hm",
            (PastCall("c1", "shell", {"command": "ls"}), PastCall("c2", "apply_patch", {"input": "*** Begin Patch"})),
        ),
        Message("tool", "a.py", call_id="c1"),
        Message("tool", "done", call_id="c2"),
        Message("assistant", "", "", (PastCall("c3", "ns__close", {"__raw": "{bad"}),)),
        Message("user", "<system-reminder>\nlater\n</system-reminder>"),
    )


def test_encrypted_reasoning_leaves_no_message() -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
    assert messages_of([{"role": "user", "content": "a"}, item]) == (Message("user", "a"),)


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (7, "input[0]"),
        ({"type": "web_search_call"}, "input[0].type"),
        ({"role": "robot", "content": ""}, "input[0].role"),
        ({"type": "function_call", "name": "x"}, "input[0]"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0]"),
        ({"role": "user", "content": 7}, "input[0].content"),
        ({"type": "reasoning", "content": {"a": 1}}, "input[0].content"),
    ],
)
def test_what_is_no_item_is_refused_by_name(item: Any, field: str) -> None:
    with pytest.raises(RequestError) as refused:
        messages_of([item])
    assert refused.value.param == field


# One loop in three shapes: steps of (parallel) calls with their results.

Steps = list[list[tuple[str, dict[str, Any], str]]]


def chat(steps: Steps, reminder: str = "") -> tuple[Message, ...]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for n, calls in enumerate(steps):
        ids = [f"call_{n}_{i}" for i in range(len(calls))]
        wire_calls = [
            {"id": i, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for i, (name, arguments, _) in zip(ids, calls, strict=True)
        ]
        messages.append({"role": "assistant", "content": None, "reasoning_content": f"{n}", "tool_calls": wire_calls})
        messages += [
            {"role": "tool", "tool_call_id": i, "content": [{"type": "text", "text": result}]}
            for i, (_, _, result) in zip(ids, calls, strict=True)
        ]
        messages += [{"role": "system", "content": reminder}] if reminder else []
    return openai_chat_parse.parse(json.dumps({"model": "m", "messages": messages}).encode()).request.messages


def anthropic(steps: Steps, reminder: str = "") -> tuple[Message, ...]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for n, calls in enumerate(steps):
        ids = [f"toolu_{n}_{i}" for i in range(len(calls))]
        blocks = [
            {"type": "tool_use", "id": i, "name": name, "input": arguments}
            for i, (name, arguments, _) in zip(ids, calls, strict=True)
        ]
        thinking = {"type": "thinking", "thinking": f"{n}", "signature": "s"}
        messages.append({"role": "assistant", "content": [thinking, *blocks]})
        results: list[dict[str, Any]] = [
            {"type": "tool_result", "tool_use_id": i, "content": result}
            for i, (_, _, result) in zip(ids, calls, strict=True)
        ]
        if reminder:
            results.append({"type": "text", "text": f"<system-reminder>\n{reminder}\n</system-reminder>"})
        messages.append({"role": "user", "content": results})
    body = {"model": "m", "max_tokens": 9, "messages": messages}
    return anthropic_parse.parse(json.dumps(body).encode()).request.messages


def responses(steps: Steps, reminder: str = "") -> tuple[Message, ...]:
    items: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "input_text", "text": "go"}]}]
    for n, calls in enumerate(steps):
        items.append({"type": "reasoning", "summary": [{"type": "summary_text", "text": f"{n}"}]})
        for i, (name, arguments, _) in enumerate(calls):
            text = json.dumps(arguments, separators=(",", ":"))
            items.append({"type": "function_call", "call_id": f"{n}_{i}", "name": name, "arguments": text})
        for i, (_, _, result) in enumerate(calls):
            items.append({"type": "function_call_output", "call_id": f"{n}_{i}", "output": result})
        items += [{"role": "developer", "content": reminder}] if reminder else []
    return messages_of(items)


LOOKS: list[tuple[str, dict[str, Any], str]] = [("ls", {"path": "a", "all": True}, "x"), ("read", {"path": "b"}, "y")]
FAILS: list[tuple[str, dict[str, Any], str]] = [("bash", {"command": "pytest"}, "1 failed in 0.2s")]


@pytest.mark.parametrize("shape", [chat, anthropic, responses])
@pytest.mark.parametrize("reminder", ["", "Do not repeat yourself."])
def test_a_loop_is_one_in_every_api(shape: Any, reminder: str) -> None:
    loop = find_loop(shape([LOOKS, FAILS] * 4, reminder))
    assert loop is not None
    assert (loop.period, loop.copies, loop.tools) == (2, 4, ("ls", "read", "bash"))
    assert find_loop(shape([LOOKS, FAILS] * 2, reminder)) is None
    polling: Steps = [[("poll", {}, f"{n} %")] for n in range(9)]
    assert find_loop(shape(polling, reminder)) is None


def test_all_apis_give_one_answer() -> None:
    assert find_loop(chat([LOOKS] * 5)) == find_loop(anthropic([LOOKS] * 5)) == find_loop(responses([LOOKS] * 5))
