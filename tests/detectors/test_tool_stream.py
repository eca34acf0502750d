"""Calls in numbered pieces: order, names, arguments, ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.tool_schema import ToolSchemas, Violation
from detectors.tool_stream import ToolStream

SCHEMA: dict[str, Any] = {
    "properties": {"command": {"type": "string"}, "all": {"type": "boolean"}},
    "required": ["command"],
    "additionalProperties": False,
}
SCHEMAS = ToolSchemas.compile([("run", SCHEMA), ("now", {})])


def told(violation: Violation | None) -> tuple[str, str] | None:
    return None if violation is None else (violation.detector, violation.reason)


def test_two_valid_calls_in_pieces() -> None:
    calls = ToolStream(SCHEMAS)
    assert calls.begin(0, "run") is None
    assert calls.arguments(0, b'{"comm') is None
    assert calls.begin(1, "now") is None
    assert calls.arguments(0, b'and": "ls"}') is None
    assert calls.end(0) == ({"command": "ls"}, None)
    assert calls.end(1) == ({}, None)
    assert calls.finish("stop") is None


def test_order() -> None:
    assert told(ToolStream(SCHEMAS).arguments(0, b"{")) == ("tool.markup", "arguments before a name")
    assert told(ToolStream(SCHEMAS).begin(1, "run")) == ("tool.markup", "unseen index")
    assert told(ToolStream(SCHEMAS).end(0)[1]) == ("tool.markup", "end of no call")
    calls = ToolStream(SCHEMAS)
    calls.begin(0, "now")
    calls.end(0)
    assert told(calls.begin(0, "now")) == ("tool.markup", "duplicate index")
    calls = ToolStream(SCHEMAS)
    calls.begin(0, "now")
    calls.end(0)
    assert told(calls.arguments(0, b"{")) == ("tool.markup", "arguments after the end")


def test_an_unknown_tool() -> None:
    assert told(ToolStream(SCHEMAS).begin(0, "rm")) == ("tool.unknown", "unknown tool")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"command=', ("tool.schema", "additionalProperties")),
        (b'{"command": 1', ("tool.schema", "type")),
        (b"{,", ("tool.json", "syntax")),
        (b'{"command": "ls\\n</parameter>\\n</function>', ("tool.markup", "leaked_markup")),
        (b'{"command": "<tool_call>\\n<function=', ("tool.markup", "leaked_markup")),
        (b'{"command": "<function=run>\\n<parameter=x>', ("tool.markup", "leaked_markup")),
        (b'{"command": "echo <function=x> and </parameter>"', None),
    ],
)
def test_arguments(data: bytes, expected: tuple[str, str] | None) -> None:
    for size in (1, 5, 100):
        calls = ToolStream(SCHEMAS)
        calls.begin(0, "run")
        for i in range(0, len(data), size):
            calls.arguments(0, data[i : i + size])
        assert told(calls.violation) == expected


def test_markup_may_be_allowed() -> None:
    calls = ToolStream(SCHEMAS, refuses_markup=False)
    calls.begin(0, "run")
    assert calls.arguments(0, b'{"command": "</parameter>\\n</function>"}') is None


@pytest.mark.parametrize("reason", ["length", "upstream"])
def test_what_is_cut_off_is_no_call(reason: str) -> None:
    calls = ToolStream(SCHEMAS)
    calls.begin(0, "run")
    calls.arguments(0, b'{"command": "ls"}')
    assert told(calls.finish(reason)) == ("tool.truncated", f"cut off: {reason}")
    calls = ToolStream(SCHEMAS)
    calls.begin(0, "run")
    calls.arguments(0, b'{"command": "ls"')
    assert told(calls.end(0)[1]) == ("tool.truncated", "cut off: stop")


def test_no_arguments_are_an_empty_object() -> None:
    calls = ToolStream(SCHEMAS)
    calls.begin(0, "run")
    assert told(calls.end(0)[1]) == ("tool.schema", "required")


@given(st.dictionaries(st.sampled_from(["command", "all", "x"]), st.text() | st.booleans()), st.integers(1, 9))
def test_the_verdict_is_that_of_the_whole_call(arguments: dict[str, Any], size: int) -> None:
    calls = ToolStream(SCHEMAS, refuses_markup=False)
    calls.begin(0, "run")
    data = json.dumps(arguments).encode()
    for i in range(0, len(data), size):
        calls.arguments(0, data[i : i + size])
    assert (calls.end(0)[1] is None) == (SCHEMAS.check("run", arguments) is None)
