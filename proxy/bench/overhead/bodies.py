"""The requests of the benchmark: a short question, and a coding agent's long history with tools.

Must not: hold anything of a real session. Invariant: a body has the bytes it says within 2 %, and is valid.
"""

from __future__ import annotations

from typing import Any

import orjson

SIZES = {"1 kB": 1_000, "400 kB": 400_000}
_TOOLS = "read_file write_file list_files search run_tests git_diff git_log rename format lint ask finish".split()


def body_of(size: int) -> bytes:
    """A streamed chat completion of about so many bytes."""
    long = size > 10_000
    turns = 40 if long else 0
    body: dict[str, Any] = {
        "model": "source",
        "stream": True,
        "messages": [{"role": "system", "content": "You repair code."}, {"role": "user", "content": "Go on."}],
        "tools": [_tool(name) for name in (_TOOLS if long else _TOOLS[:1])],
    }
    for turn in range(turns):
        call = {"name": "read_file", "arguments": orjson.dumps({"path": f"src/part_{turn}.py"}).decode()}
        calls = [{"id": f"call_{turn}", "type": "function", "function": call}]
        body["messages"] += [
            {"role": "assistant", "content": f"Now part {turn}.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": f"call_{turn}", "content": ""},
        ]
    room = size - len(orjson.dumps(body))
    places = [message for message in body["messages"] if message["role"] == "tool"] or body["messages"][1:]
    for number, message in enumerate(places):
        message["content"] = _source(room // len(places), number)
    return orjson.dumps(body)


def _tool(name: str) -> dict[str, Any]:
    properties = {"path": {"type": "string", "description": "of a file"}, "limit": {"type": "integer", "minimum": 1}}
    schema = {"type": "object", "properties": properties, "required": ["path"], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


def _source(length: int, number: int) -> str:
    """Something like a file, of so many bytes once it is JSON."""
    text, lines = "", 0
    while len(text) + text.count("\n") < length:
        text += f"def step_{number}_{lines}(value): return value * {lines % 17} + {number}\n"
        lines += 1
    while len(text) + text.count("\n") > length:
        text = text[:-1]
    return text
