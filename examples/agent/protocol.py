"""What the example agent says: system prompt, tools, first message, and the exact text of every tool result.

Must not: touch files or processes. The generator of training episodes imports it, so that the embedded model is
trained on exactly the texts that the agent sends.
Invariant: texts are deterministic: no times, no absolute paths, no machine names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SYSTEM_PROMPT = "You repair Python code. Read the file, rewrite the faulty function, run the tests, then report."

MAX_RESULT_CHARS = 6000


def _tool(name: str, description: str, **properties: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": "string", "description": text} for key, text in properties.items()},
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }


TOOLS: list[dict[str, Any]] = [
    _tool("read_file", "Show a file.", path="file name"),
    _tool(
        "edit_file",
        "Replace text that occurs once in a file.",
        path="file name",
        old_string="text to replace",
        new_string="new text",
    ),
    _tool("run_tests", "Run all tests."),
]


def first_message(files: Sequence[str], test_output: str) -> str:
    """The task: which files there are and how the tests fail."""
    return f"The tests fail. Files:\n{_listed(files)}\n\n{test_output}\n\nFix the bug."


def _listed(files: Sequence[str]) -> str:
    """One name per line: a tokenizer then cuts it as it does in the parameter of a call."""
    return "\n".join(files)


def file_text(content: str) -> str:
    """Result of read_file."""
    return content.rstrip("\n")[:MAX_RESULT_CHARS]


def edited(path: str) -> str:
    return f"edited {path}"


def not_found(path: str, files: Sequence[str]) -> str:
    return f"error: no file {path}. Files:\n{_listed(files)}"


def old_string_missing(path: str) -> str:
    return f"error: old_string not found in {path}"


def old_string_ambiguous(path: str, count: int) -> str:
    return f"error: old_string occurs {count} times in {path}"


def failure(test: str, statement: str, outcome: str) -> str:
    """One failed test: its name, the assertion or call that failed, and what happened instead."""
    return f"FAIL {test}\n  {statement}\n  {outcome}"


def summary(failures: Sequence[str], passed: int) -> str:
    """Result of run_tests; only the first failure is shown in full."""
    if not failures:
        return f"{passed} passed"
    return f"{failures[0]}\n{len(failures)} failed, {passed} passed"
