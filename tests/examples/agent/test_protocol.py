"""The texts that the agent sends: schemas a server accepts, and wordings that do not depend on the machine."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from detectors.tool_schema import ToolSchemas
from examples.agent import protocol

SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in protocol.TOOLS}


def test_the_three_tools_have_valid_schemas_and_survive_json() -> None:
    assert list(SCHEMAS) == ["read_file", "edit_file", "run_tests"]
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(protocol.TOOLS)) == protocol.TOOLS


@pytest.mark.parametrize(
    ("name", "arguments", "valid"),
    [
        ("read_file", {"path": "a.py"}, True),
        ("read_file", {}, False),
        ("read_file", {"path": 1}, False),
        ("read_file", {"path": "a.py", "lines": "1"}, False),
        ("edit_file", {"path": "a.py", "old_string": "x", "new_string": ""}, True),
        ("edit_file", {"path": "a.py", "old_string": "x"}, False),
        ("run_tests", {}, True),
        ("run_tests", {"path": "a.py"}, False),
    ],
)
def test_arguments_are_checked_as_the_guard_checks_them(name: str, arguments: dict[str, Any], valid: bool) -> None:
    schemas = ToolSchemas.compile(list(SCHEMAS.items()))
    assert (schemas.check(name, arguments) is None) == valid
    assert jsonschema.Draft202012Validator(SCHEMAS[name]).is_valid(arguments) == valid


def test_first_message_names_the_files_and_shows_the_failure() -> None:
    text = protocol.first_message(["a.py", "test_a.py"], "FAIL test_a\n1 failed, 0 passed")
    lines = text.splitlines()
    assert lines.index("a.py") + 1 == lines.index("test_a.py") < lines.index("FAIL test_a")


def test_summary_shows_the_first_failure_and_counts_all() -> None:
    first, second = protocol.failure("test_a", "assert f(1) == 2", "got 1"), protocol.failure("test_b", "x", "y")
    assert protocol.summary([first, second], 3) == "FAIL test_a\n  assert f(1) == 2\n  got 1\n2 failed, 3 passed"
    assert protocol.summary([], 3) == "3 passed"


def test_file_text_drops_the_newlines_at_the_end_and_cuts() -> None:
    assert protocol.file_text("x = 1\n\n\n") == "x = 1"
    assert protocol.file_text("\n x\n") == "\n x"
    assert len(protocol.file_text("x" * 10_000)) == protocol.MAX_RESULT_CHARS


def test_errors_name_the_path_and_what_may_be_asked_instead() -> None:
    assert protocol.not_found("b.py", ["a.py", "c.py"]) == "error: no file b.py. Files:\na.py\nc.py"
    for text in (protocol.old_string_missing("a.py"), protocol.old_string_ambiguous("a.py", 4)):
        assert text.startswith("error: ")
        assert text.endswith("in a.py")
    assert "4 times" in protocol.old_string_ambiguous("a.py", 4)
