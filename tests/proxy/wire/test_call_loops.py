"""One agent loop in the shapes of all three APIs: what the fold over a history says does not depend on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detectors.call_history import find_loop
from proxy.conversation import Message
from proxy.wire import anthropic_parse, openai_chat_parse, openai_responses_parse

# Steps of (parallel) calls with their results.
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
    return openai_responses_parse.parse(json.dumps({"model": "m", "input": items}).encode()).request.messages


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
