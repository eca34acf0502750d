"""A call whose arguments stream as JSON: where it is found bad, and the verdict when it is complete."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detectors.elements import ElementSettings
from detectors.json_call import JsonCall
from detectors.placed_channels import Misplaced, NamedCall
from detectors.tool_schema import ToolSchemas

STRING = {"type": "string"}
SCHEMAS = ToolSchemas.compile(
    [
        ("ls", {"properties": {"path": STRING}, "required": ["path"], "additionalProperties": False}),
        ("open", {"properties": {"path": STRING, "a=b": STRING}}),
        ("now", {}),
    ]
)


def call(name: str, *pieces: str, misplaced: Misplaced = "") -> tuple[JsonCall, int | None, Any, str]:
    """The call, the piece in which it was found bad, its arguments, and why it is not valid."""
    read = JsonCall(NamedCall(0, 3, name, misplaced), SCHEMAS, ElementSettings())
    bad = None if read.violation is None else -1
    for at, piece in enumerate(pieces):
        if read.feed(piece, 3 + at) is not None and bad is None:
            bad = at
    value, violation = read.end()
    return read, bad, value, "" if violation is None else f"{violation.detector} {violation.reason}"


def test_a_valid_call() -> None:
    read, bad, value, why = call("ls", '{"pa', 'th": "s', 'rc"}')
    assert (bad, value, why) == (None, {"path": "src"}, "")
    assert (read.name, read.began) == ("ls", 3)


@pytest.mark.parametrize("pieces", [(), ("",), ("{}",)])
def test_a_call_without_arguments(pieces: tuple[str, ...]) -> None:
    assert call("now", *pieces)[2:] == ({}, "")
    assert call("ls", *pieces)[3] == "tool.schema required"


@pytest.mark.parametrize(
    ("name", "pieces", "bad", "why"),
    [
        ("rm", ('{"path": "x"}',), -1, "tool.unknown unknown tool"),
        ('ls path="x"', ("{}",), -1, "tool.unknown unknown tool"),
        ("ls", ('{"path": 1', "}"), 0, "tool.schema type"),
        ("ls", ('{"pa', 'th": "a", "x', '": 1}'), 1, "tool.schema additionalProperties"),
        ("ls", ('{{"path"',), 0, "tool.json syntax"),
        ("ls", ('"{\\"path\\"',), 0, "tool.json not_an_object"),
        ("ls", ('{"path": "a"}', '{"path"'), 1, "tool.json syntax"),
        ("ls", ('{"path": "a"',), None, "tool.truncated cut off: stop"),
        ("ls", ('{"path": "<tool_call>\\n<function=ls>"}',), 0, "tool.markup leaked_markup"),
    ],
)
def test_invalid_calls(name: str, pieces: tuple[str, ...], bad: int | None, why: str) -> None:
    _, found, value, reason = call(name, *pieces)
    assert (found, reason) == (bad, why)
    assert value is None


@pytest.mark.parametrize("key", ["command=ls", "path>x", "<path", "a\nb"])
def test_keys_that_are_torn_markup(key: str) -> None:
    assert call("open", json.dumps({key: ""}))[3] == "tool.markup torn_key"


def test_declared_keys_may_look_like_anything() -> None:
    assert call("open", '{"a=b": "x", "other key": 1}')[3] == ""


@pytest.mark.parametrize("misplaced", ["unseen index", "arguments before a name", "arguments after the end"])
def test_a_call_out_of_its_place(misplaced: Misplaced) -> None:
    _, bad, value, why = call("ls", '{"path": "a"}', misplaced=misplaced)
    assert (bad, value, why) == (-1, None, f"tool.markup {misplaced}")


def test_equal_elements_are_counted() -> None:
    read = JsonCall(NamedCall(0, 0, "open"), SCHEMAS, ElementSettings())
    runs = [read.repeated for at in range(80) if read.feed('{"x": [' if at == 0 else '"word", ', at) is None]
    assert [run.copies for run in runs if run is not None] == [16, 64]
