"""Loops that people reported. Their collection lies beside the repository and is not part of it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from detectors.byte_loops import ByteLoops
from detectors.call_history import find_loop
from detectors.finding import Grade
from detectors.repeated_calls import RepeatedCalls
from proxy.conversation import Message, PastCall
from tests.detectors.test_channel_loops import feed, prose
from tests.proxy.scripted import cut

REAL_LOOPS = Path(os.environ.get("SPECGUARD_REAL_LOOPS", Path(__file__).parents[3] / "shared/data/real_loops.json"))
ENTRIES: list[dict[str, Any]] = json.loads(REAL_LOOPS.read_text(encoding="utf-8")) if REAL_LOOPS.exists() else []
OF_CALLS = ("agent_turn", "tool_call", "tool_call_error")
SHOWN = 2400
"""Tokens of a loop whose length was not reported."""

pytestmark = pytest.mark.skipif(not ENTRIES, reason="no collection of real loops here")


def unit_of(entry: dict[str, Any]) -> str:
    """As it was reported, or prose of the size that was."""
    if size := re.match(r"<(\d+)-token", entry["unit"]):
        return "".join(cut(prose(400))[: int(size[1])])
    if size := re.search(r"~(\d+) chars>", entry["unit"]):
        return prose(2000)[: int(size[1])]
    return str(entry["unit"])


def said(entry: dict[str, Any]) -> tuple[str, str]:
    """The text after some prose, and its channel."""
    unit = unit_of(entry)
    copies = max(entry["count"] or 0, 1 + SHOWN // len(cut(unit)))
    if entry["kind"] in ("exact_in_json_array", "exact_in_json_string"):
        return '{"items": [' + unit * copies, "tool:0"
    return prose(60, 5) + unit * copies, "text"


TEXTS = [pytest.param(entry, id=entry["name"]) for entry in ENTRIES if entry["kind"] not in OF_CALLS]
CALLS = [pytest.param(entry, id=entry["name"]) for entry in ENTRIES if entry["kind"] in OF_CALLS]


@pytest.mark.parametrize("entry", TEXTS)
def test_a_text_that_is_stuck_is_found_by_its_tokens(entry: dict[str, Any]) -> None:
    text, channel = said(entry)
    assert Grade.FALLBACK in {found.grade for found in feed(text, channel)}


@pytest.mark.parametrize("entry", TEXTS)
def test_and_by_its_bytes(entry: dict[str, Any]) -> None:
    text, channel = said(entry)
    found = ByteLoops(channel=channel).feed(0, text.encode())
    assert Grade.FALLBACK in {each.grade for each in found}


@pytest.mark.parametrize("entry", CALLS)
def test_calls_again_and_again_are_found_in_the_history(entry: dict[str, Any]) -> None:
    """What the reports do not tell is made up: the arguments, and that each result was the same."""
    arguments, history = {"command": entry["unit"]}, [Message("user", "go")]
    for n in range(entry["count"]):
        history.append(Message("assistant", f"thought {n}", calls=(PastCall(f"c{n}", "run", arguments),)))
        history.append(Message("tool", "usage: --help", call_id=f"c{n}"))
    told = [n for n in range(1, len(history) + 1, 2) if find_loop(history[:n]) is not None]
    assert told[0] == 1 + 2 * 3
    loop = find_loop(history)
    assert loop is not None and loop.finding().grade >= Grade.FALLBACK


@pytest.mark.parametrize("entry", CALLS)
def test_and_inside_one_response(entry: dict[str, Any]) -> None:
    calls = RepeatedCalls()
    found = [calls.feed("run", json.dumps({"command": entry["unit"]}), n, 10 * n, 10 * n + 9) for n in range(5)]
    grades = [each.grade if each else None for each in found]
    assert grades == [None, Grade.SUSPECT, Grade.FALLBACK, Grade.FALLBACK, Grade.ABORT]
