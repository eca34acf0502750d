"""What is left of an incident where nobody asked for captures: bytes of real stores after real responses."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from policies.policy import Policy
from proxy.conversation import ChatRequest, Message, PastCall, Tool
from proxy.guard.session import GuardedSession
from proxy.incidents import IncidentStore
from proxy.incidents.withheld import without_text
from tests.proxy.incidents.samples import CLOSURE, INCIDENT, JUDGEMENT, ROW
from tests.proxy.played import TOOLS
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text, token_ids

SAID = "Brombeere Zwieback Quellenhof Wintergarten Lindwurm Seerose Karussell Nebelhorn"
UNIT = " Zwieback im Quellenhof"
STEP = (
    Message("assistant", "", calls=(PastCall("c", "ls", {"path": "Seerose"}),)),
    Message("tool", "Karussell", call_id="c"),
)
REQUEST = ChatRequest(
    "openai.chat",
    "m",
    (Message("system", "You guard the Nebelhorn."), Message("user", "Find the Brombeere"), *STEP),
    (*TOOLS, Tool("paint", "paints a Seerose", {"properties": {"hue": {"enum": ["Karussell"]}}})),
    request_id="req_1",
)
AGAIN = replace(REQUEST, messages=(*REQUEST.messages, *STEP * 5))
RESPONSES = {
    "a loop": Script("Lindwurm.", fast=f"Lindwurm{UNIT * 300}"),
    "a loop of the model": Script(f"Lindwurm{UNIT * 1500}"),
    "a loop of bytes in a call": Script(call_text("ls", path="Lindwurm" * 3000)),
    "a tool that is not declared": Script(call_text("Wintergarten", path="Lindwurm")),
    "a parameter that is not declared": Script(call_text("ls", path="Lindwurm", Wintergarten="Quellenhof")),
    "a value that is not allowed": Script(call_text("paint", hue="Lindwurm")),
    "a mended call": Script(call_text("move", steps="{'Lindwurm': 1,}").replace("</function>\n", "")),
    "a call that was cut off": Script(call_text("ls", path="Lindwurm").replace("</tool_call>", "")),
    "an audit": Script("Lindwurm Zwieback", fast="Lindwurm Quellenhof", audited="all"),
    "numbers that are none": Script("Lindwurm Zwieback Quellenhof", nonfinite=frozenset({4})),
}


def stored(
    path: Path, script: Script, capture: bool, policy: Policy | None = None, request: ChatRequest = REQUEST
) -> IncidentStore:
    store = IncidentStore(path / "i.sqlite", capture=capture)

    async def run() -> None:
        session = GuardedSession(request, ScriptedBackend(script), policy or Policy(), store, FAST)
        async for _ in session.events():
            pass

    asyncio.run(run())
    store.flush()
    return store


def revealed(folder: Path, script: Script) -> set[str]:
    """Words and token ids of prompt and response that stand somewhere in the store's files."""
    found: set[str] = set()
    texts = [script.plain, script.fast or "", SAID, *(message.text for message in REQUEST.messages)]
    numbers = {str(token) for text in texts for token in token_ids(text)}
    for file in folder.iterdir():
        data = file.read_bytes().decode("latin-1")
        found |= {word for word in SAID.split() if word.lower() in data.lower()}
        found |= numbers & set(re.findall(r"(?<![\w.])\d{5,8}(?![\w.])", data))
    return found


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("policy", [Policy(), Policy(repair=True), Policy("observe")])
def test_nothing_that_was_said_is_in_the_files(tmp_path: Path, name: str, policy: Policy) -> None:
    store = stored(tmp_path, RESPONSES[name], False, policy)
    assert store.list()
    assert revealed(tmp_path, RESPONSES[name]) == set()
    store.close()
    assert revealed(tmp_path, RESPONSES[name]) == set()


@pytest.mark.parametrize("policy", [Policy(), Policy("observe"), Policy(max_call_cycles=5)])
def test_nor_is_it_after_a_loop_over_requests(tmp_path: Path, policy: Policy) -> None:
    store = stored(tmp_path, Script(call_text("ls", path="Seerose")), False, policy, AGAIN)
    store.close()
    (loop,) = store.list()
    assert (loop.opened["evidence"]["copies"], loop.opened["evidence"]["withheld"]) == (6, ["tools", "following"])
    assert revealed(tmp_path, Script("")) == set()


@pytest.mark.parametrize("name", ["a loop", "a parameter that is not declared"])
def test_the_search_finds_what_is_there(tmp_path: Path, name: str) -> None:
    """With captures on the same search finds words and ids, in the evidence."""
    store = stored(tmp_path, RESPONSES[name], True)
    found = revealed(tmp_path, RESPONSES[name])
    store.close()
    assert found


def test_what_a_reader_needs_is_still_there(tmp_path: Path) -> None:
    store = stored(tmp_path, RESPONSES["a parameter that is not declared"], False)
    store.close()
    record = store.list(detector="tool.schema")[0]
    assert (record.opened["tool"], record.opened["reason"]) == ("ls", "additionalProperties")
    assert record.opened["evidence"]["schema_path"] == "/additionalProperties"
    assert {"tool", "instance_path", "unexpected"} <= set(record.opened["evidence"]["withheld"])


def test_each_kind_of_record() -> None:
    opened = asdict(replace(INCIDENT, texts={"a": "b"}, evidence={"token": 5, "chars": 6, "keyword": "type", "x": "y"}))
    assert without_text("opened", opened)["evidence"] == {"chars": 6, "keyword": "type", "withheld": ["token", "x"]}
    assert "texts" not in without_text("opened", opened)
    closed = asdict(replace(CLOSURE, proof={"compared": 3, "discarded": (1, 2), "redecoded": (3,)}))
    assert without_text("closed", closed)["proof"] == {"compared": 3, "withheld": ["discarded", "redecoded"]}
    judged: dict[str, Any] = asdict(replace(JUDGEMENT, axes=({**ROW, "ids": [1], "text": "x"},)))
    assert without_text("judged", judged)["axes"] == [{**ROW, "withheld": ["ids", "text"]}]
    assert opened["texts"] == {"a": "b"}, "the record itself is left as it was"


def test_twice_is_as_good_as_once() -> None:
    once = without_text("opened", asdict(replace(INCIDENT, evidence={"unit": [1], "copies": 2})))
    assert without_text("opened", once) == once
