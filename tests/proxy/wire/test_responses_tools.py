"""Tools of the Responses API become functions, and every function knows how it was declared."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.conversation import Tool
from proxy.wire.responses_tools import CUSTOM_SCHEMA, Origin, read_tools
from tests.proxy.wire.refusals import refused

LS = {"type": "function", "name": "ls", "description": "lists", "parameters": {"type": "object"}, "strict": True}
READ = {"type": "function", "name": "read"}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: x"}


def test_functions() -> None:
    tools, names, ignored = read_tools([LS, READ])
    assert tools == (Tool("ls", "lists", {"type": "object"}, True), Tool("read"))
    assert (names.of("ls"), ignored) == (Origin("ls"), [])


def test_a_namespace_is_flattened() -> None:
    tools, names, _ = read_tools([READ, {"type": "namespace", "name": "fs", "description": "files", "tools": [READ]}])
    assert [tool.name for tool in tools] == ["read", "fs__read"]
    assert (names.of("fs__read"), names.of("read")) == (Origin("read", "fs"), Origin("read"))


def test_a_custom_tool_is_a_function_of_one_text() -> None:
    tools, names, _ = read_tools([{"type": "custom", "name": "patch", "description": "edits", "format": GRAMMAR}])
    (tool,) = tools
    assert (tool.parameters, tool.description) == (
        CUSTOM_SCHEMA,
        "edits\n\n`input` follows this lark grammar:\nstart: x",
    )
    assert names.of("patch").custom
    (free,), _, _ = read_tools([{"type": "custom", "name": "say", "format": {"type": "text"}}])
    assert free.description == ""


def test_hosted_tools_are_left_out_and_told() -> None:
    nested = {"type": "namespace", "name": "n", "tools": [{"type": "mcp"}, READ]}
    tools, _, ignored = read_tools([{"type": "web_search"}, LS, nested, {"kind": 1}])
    assert [tool.name for tool in tools] == ["ls", "n__read"]
    assert ignored == ["tools[0].web_search", "tools[2].tools[0].mcp", "tools[3]"]


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        ([LS, LS], "tools[1].name"),
        ([{"type": "function"}], "tools[0].name"),
        ([{"type": "function", "name": "f", "parameters": []}], "tools[0].parameters"),
        ([{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}], "tools[0].tools[0].name"),
        (
            [{"type": "function", "name": "n__read"}, {"type": "namespace", "name": "n", "tools": [READ]}],
            "tools[1].tools",
        ),
    ],
)
def test_refusals_name_the_field(tools: list[Any], field: str) -> None:
    assert str(refused(lambda: read_tools(tools)).message).startswith(field)


def test_a_format_that_nobody_enforces_is_told() -> None:
    """The model is shown the grammar, and may write what it likes."""
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
    custom = {"type": "custom", "name": "patch", "format": grammar}
    inside = {"type": "namespace", "name": "n", "tools": [custom]}
    text = {"type": "custom", "name": "say", "format": {"type": "text"}}
    assert read_tools([custom, text, inside])[2] == ["tools[0].format", "tools[2].tools[0].format"]
