"""Demands in no API's terms: what is enforced, what nothing can meet."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.conversation import Demands, Tool
from proxy.wire.demands import ANY_OBJECT, Choice, allowed_tools, demanded, text_format
from tests.proxy.wire.refusals import refused

TOOLS = (Tool("ls"), Tool("cd"))
ANY_TEXT = (None, "")


def test_tools_and_demands() -> None:
    def of(choice: Choice, single: bool = False) -> tuple[list[str], Demands]:
        tools, demands = demanded(TOOLS, choice, "f", single=single, text=ANY_TEXT)
        return [tool.name for tool in tools], demands

    assert of(Choice()) == (["ls", "cd"], Demands())
    assert of(Choice("none"), single=True) == ([], Demands())
    assert of(Choice("named", "cd"), single=True) == (["ls", "cd"], Demands(True, "cd", 1))
    assert of(Choice("required", allowed=("cd",))) == (["cd"], Demands(True))


@pytest.mark.parametrize(
    "choice", [Choice("named", "rm"), Choice("auto", allowed=("rm",)), Choice("required", allowed=())]
)
def test_what_nothing_can_meet(choice: Choice) -> None:
    assert refused(lambda: demanded(TOOLS, choice, "f", single=False, text=ANY_TEXT)).param == "f"


def test_allowed_tools() -> None:
    assert allowed_tools({"mode": "required"}, "f", ["ls"]) == Choice("required", allowed=("ls",))
    assert refused(lambda: allowed_tools({"mode": "x"}, "f", [])).param == "f.mode"
    assert refused(lambda: allowed_tools({}, "f", None)).param == "f.tools"


@pytest.mark.parametrize(
    ("value", "nested", "found"),
    [
        (None, "", (None, "")),
        ({"type": "text"}, "", (None, "")),
        ({"type": "json_object"}, "", (ANY_OBJECT, "f")),
        ({"type": "json_schema", "schema": {"a": 1}}, "", ({"a": 1}, "f.schema")),
        ({"type": "json_schema", "j": {"schema": {}}}, "j", ({}, "f.j.schema")),
    ],
)
def test_text_formats(value: Any, nested: str, found: Any) -> None:
    assert text_format(value, "f", nested) == found


@pytest.mark.parametrize(("value", "param"), [({"type": "x"}, "f"), ({"type": "json_schema", "schema": 1}, "f.schema")])
def test_bad_text_formats(value: Any, param: str) -> None:
    assert refused(lambda: text_format(value, "f")).param == param
