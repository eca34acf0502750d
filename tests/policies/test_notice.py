"""Notices: what a client reads for every kind of end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from policies.notice import MARKER, NOTICE_CHARS, notice
from policies.policy import End


def said(cause: Any, detector: str, reason: str = "", channel: str = "tool:0", **evidence: Any) -> str:
    return notice(Finding(detector, Grade.ABORT, channel, 9, 1, reason, evidence), End(cause, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            said("invalid_call", "tool.schema", "type", tool="ls", instance_path="/path"),
            "A call of tool `ls` was not sent: its arguments violate `type` at /path.",
        ),
        (
            said("invalid_call", "tool.schema", "required", tool="ls", instance_path="", missing="path"),
            "A call of tool `ls` was not sent: its arguments violate `required` at / (missing: path).",
        ),
        (
            said("invalid_call", "tool.unknown", tool="rm"),
            "A call of tool `rm` was not sent: no such tool was declared.",
        ),
        (
            said("invalid_call", "tool.markup", "missing_function"),
            "A tool call was not sent: missing function.",
        ),
        (said("invalid_call", "tool.truncated"), "A tool call was not sent: the model ended inside it."),
        (said("truncated_call", "tool.truncated"), "A tool call was not sent: the token limit cut it off."),
        (
            said("model_loop", "loop.period", channel="thinking", period=3, copies=9),
            "Stopped: the model repeats the same 3 tokens in its thinking, 9 times by now.",
        ),
        (
            said("model_loop", "loop.calls", tool="ls", copies=5),
            "Stopped: the model called tool `ls` 5 times with the same arguments.",
        ),
        (
            said("model_loop", "loop.history", channel="session", tools=["ls", "bash"], copies=20),
            "Stopped: the same calls (`ls`, `bash`) had the same results 20 times in a row. "
            "Say how to go on, or that it should continue as it did.",
        ),
        (
            said("model_loop", "struct.think", channel="text", tag="<think>", copies=32),
            "Stopped: the model opened its thinking 32 times again.",
        ),
        (
            said("model_loop", "struct.run", channel="text", tag="<think>", copies=16),
            "Stopped: the model wrote the token <think> 16 times in a row.",
        ),
        (
            said("model_loop", "loop.near", channel="text", gap=40),
            "Stopped: the model repeats itself in its text, with small changes.",
        ),
    ],
)
def test_the_words(text: str, expected: str) -> None:
    assert text == f"{MARKER} {expected}"


@given(st.text(max_size=1000), st.text(max_size=1000))
def test_a_notice_is_one_short_printable_line(tool: str, key: str) -> None:
    text = said("invalid_call", "tool.schema", "additionalProperties", tool=tool, unexpected=[key])
    assert len(text) <= NOTICE_CHARS
    assert text.isprintable()
