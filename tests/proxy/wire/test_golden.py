"""Golden transcripts: what each API's client reads of one and the same response, to the byte.

`SPECGUARD_GOLDEN=write` writes them anew; the difference is for a reviewer to judge. Ids and times are blanked out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.errors import BackendError
from tests.proxy.live import (
    ANTHROPIC_TOOLS,
    CHAT,
    MESSAGES,
    OPENAI_TOOLS,
    RESPONSES,
    RESPONSES_TOOLS,
    Answer,
    serving,
    stable,
)
from tests.proxy.scripted import Script, call_text

FOLDER = Path(__file__).parent / "golden"
LS, BAD = call_text("ls", path="src"), call_text("ls", pth="secret")
THOUGHT = "<think>\nI must look.\n</think>\n\n"
SCRIPTS = {
    "text": Script("Grüße 👋 \u2028 done.", width=2),
    "thinking, text and two calls": Script(f"{THOUGHT}I look.\n{LS}\n{call_text('ls', path='a b')}", width=4),
    "a bad call, healed": Script(f"I look.\n{LS}", f"I look.\n{BAD}", width=4),
    "cut off by the limit": Script("one two three four five six", width=2),
    "a failure in mid-stream": Script("one two three four", fail_at=4, width=2, failure=BackendError("it broke")),
}
FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    CHAT: {"": {"tools": OPENAI_TOOLS, "stream_options": {"include_usage": True}}, "limit": {"max_tokens": 5}},
    RESPONSES: {"": {"tools": RESPONSES_TOOLS}, "limit": {"max_output_tokens": 5}},
    MESSAGES: {"": {"tools": ANTHROPIC_TOOLS}, "limit": {"max_tokens": 5}},
}
NAMES = {CHAT: "chat_completions", RESPONSES: "responses", MESSAGES: "messages"}
BLANKED = ((re.compile(r'"req_[0-9a-f]{24}"'), '"req_0"'), (re.compile(r'"inc_[0-9A-Z]+"'), '"inc_0"'))


def told(answer: Answer) -> str:
    shown = {"x-specguard-mode", "content-type", "x-should-retry"} & answer.headers.keys()
    lines = [f"HTTP {answer.status}{' (connection broken off)' if answer.broken else ''}"]
    lines += [f"{name}: {answer.headers[name]}" for name in sorted(shown)]
    text = "\n".join([*lines, *stable(answer.body)])
    for pattern, blank in BLANKED:
        text = pattern.sub(blank, text)
    return text


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_what_a_client_reads(path: str) -> None:
    sections = []
    for name, script in SCRIPTS.items():
        fields = FIELDS[path][""] | (FIELDS[path]["limit"] if "limit" in name else {})
        for stream in (True, False):
            async with serving(script) as live:
                answer = await live.post(path, stream=stream, **fields)
            sections.append(f"== {name}, {'streamed' if stream else 'whole'}\n{told(answer)}\n")
    found, golden = "\n".join(sections), FOLDER / f"{NAMES[path]}.txt"
    if os.environ.get("SPECGUARD_GOLDEN") == "write":
        golden.write_text(found, encoding="utf-8")
    expected = golden.read_text(encoding="utf-8")
    assert found.split("\n") == expected.split("\n"), "see the docstring if this was meant"
