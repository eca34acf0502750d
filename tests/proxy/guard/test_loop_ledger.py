"""A loop that was cut does not come back: remembered by digest, noticed by our own words, in histories of all APIs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from detectors.history_scrub import LoopDigest
from policies.policy import Policy
from proxy.conversation import ChatRequest, Message
from proxy.guard.loop_ledger import MAX_LOOPS, LoopLedger
from proxy.guard.session import GuardedSession
from tests.proxy.live import CHAT, MESSAGES, RESPONSES, Live, body_for, serving
from tests.proxy.played import REQUEST, Sink, play
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text

UNIT = " I will read the file again, and then I will see."
HEALED = Script("So. I am done.", fast=f"So.{UNIT * 200}", width=2)
MODEL = Script(f"So.{UNIT * 800}")
SAID = "read the file again"


def digest(unit: str = UNIT) -> LoopDigest:
    loop = LoopDigest.of(unit)
    assert loop is not None
    return loop


def history(*turns: str) -> ChatRequest:
    messages = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(turns)]
    return ChatRequest("openai.chat", "m", tuple(messages))


def test_only_the_conversation_that_had_the_loop_is_scrubbed() -> None:
    ledger, request = LoopLedger(), history("go", f"A{UNIT * 5} B", "go on")
    ledger.remember("anna/1", digest())
    scrubbed, removed = ledger.scrub("anna/1", request)
    assert (scrubbed.messages[1].text, removed) == (f"A{UNIT} B", 4 * len(UNIT))
    assert ledger.scrub("anna/1", scrubbed) == (scrubbed, 0)
    for other in ("bert/1", "anna/2"):
        assert ledger.scrub(other, request) == (request, 0)
        assert ledger.scrub(other, request)[0] is request


def test_what_others_said_is_never_scrubbed() -> None:
    ledger = LoopLedger()
    ledger.remember("c", digest())
    looped = UNIT * 5
    roles: list[Any] = ["system", "user", "tool"]
    request = replace(history(), messages=tuple(Message(role, looped) for role in roles))
    assert ledger.scrub("c", request) == (request, 0)


def test_conversations_and_loops_are_few() -> None:
    ledger, request = LoopLedger(2), history("go", f"A{UNIT * 5} B")
    for name in ("a", "b"):
        ledger.remember(name, digest())
    ledger.scrub("a", request)
    ledger.remember("c", digest())
    assert [ledger.scrub(name, request)[1] > 0 for name in "abc"] == [True, False, True]
    for i in range(MAX_LOOPS - 1):
        ledger.remember("a", digest(f"another unit, number {i:02d} "))
    assert ledger.scrub("a", request)[1] > 0
    ledger.remember("a", digest("one more unit "))
    assert ledger.scrub("a", request)[1] == 0


def remembered(script: Script, policy: Policy | None = None) -> list[LoopDigest]:
    """What a response is remembered by."""
    loops: list[LoopDigest] = []

    async def run() -> None:
        session = GuardedSession(
            REQUEST, ScriptedBackend(script), policy or Policy(), Sink(), FAST, remember=loops.append
        )
        async for _ in session.events():
            pass

    asyncio.run(run())
    return loops


def test_a_loop_is_remembered_if_some_of_it_was_sent() -> None:
    assert remembered(HEALED) == [digest()]
    assert remembered(Script("So. Done.")) == []
    assert remembered(replace(HEALED, width=1000)) == [], "it came in one step, and nothing of it was sent"
    assert remembered(Script("So.", fast=call_text("ls", path=UNIT * 200), width=2)) == []
    assert remembered(HEALED, Policy("observe")) == []


def test_a_repetition_that_plain_decoding_goes_on_with_was_meant_and_stays_in_the_history() -> None:
    rows = "So.\n" + "one row of the table that was asked for\n" * 30 + "That is all."
    played = play(Script(rows, width=4))
    assert (played.text, [incident.action for incident in played.sink.incidents]) == (rows, ["rewind"])
    assert remembered(Script(rows, width=4)) == []


Asked = Callable[[Live, list[dict[str, Any]]], Any]


def openai(turns: list[str]) -> dict[str, Any]:
    return {"messages": [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(turns)]}


def anthropic(turns: list[str]) -> dict[str, Any]:
    plain = openai(turns)["messages"]
    messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in plain]
    return {"messages": messages, "max_tokens": 8000}


def responses(turns: list[str]) -> dict[str, Any]:
    items = []
    for i, text in enumerate(turns):
        kind = "output_text" if i % 2 else "input_text"
        role = "assistant" if i % 2 else "user"
        items.append({"type": "message", "role": role, "content": [{"type": kind, "text": text}]})
    return {"input": items}


def text_of(path: str, body: Any) -> str:
    if path == CHAT:
        return str(body["choices"][0]["message"]["content"])
    if path == MESSAGES:
        return "".join(block["text"] for block in body["content"] if block["type"] == "text")
    parts = [part for item in body["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


APIS = [(CHAT, openai), (MESSAGES, anthropic), (RESPONSES, responses)]


@pytest.mark.parametrize(("path", "history_of"), APIS)
@pytest.mark.parametrize("script", [HEALED, MODEL])
@pytest.mark.parametrize("trim", [str, str.strip, lambda text: text + "\n\n"])
async def test_the_next_prompt_holds_one_copy(
    path: str, history_of: Callable[[list[str]], dict[str, Any]], script: Script, trim: Callable[[str], str]
) -> None:
    async with serving(ScriptedBackend(script, "fine")) as live:
        first = await live.ask("POST", path, body_for(path, **history_of(["go"])))
        said = text_of(path, first.json)
        assert said.count(SAID) >= 2, "some of the loop was sent before it was cut"
        assert "x-specguard-scrubbed" not in first.headers
        second = await live.ask("POST", path, body_for(path, **history_of(["go", trim(said), "go on"])))
        assert int(second.headers["x-specguard-scrubbed"]) > 0
        prompt = live.backend.requests[1].messages
        assert [message.role for message in prompt] == ["user", "assistant", "user"]
        assert prompt[1].text.count(SAID) in (1, 2 if script is HEALED else 1)
        assert UNIT * 2 not in prompt[1].text
        assert prompt[1].text.startswith("So.")
        assert ("[specguard] Stopped" in prompt[1].text) is (script is MODEL)
        assert prompt[2].text == "go on"


async def test_a_conversation_that_the_server_keeps_is_scrubbed_too() -> None:
    async with serving(ScriptedBackend(HEALED, "fine")) as live:
        first = await live.ask("POST", RESPONSES, body_for(RESPONSES, prompt_cache_key="one"))
        assert text_of(RESPONSES, first.json).count(SAID) >= 2
        body = body_for(RESPONSES, input="go on", previous_response_id=first.json["id"], prompt_cache_key="one")
        second = await live.ask("POST", RESPONSES, body)
        assert int(second.headers["x-specguard-scrubbed"]) > 0
        assert UNIT * 2 not in live.backend.requests[1].messages[1].text


async def test_a_loop_of_another_conversation_stays() -> None:
    async with serving(ScriptedBackend(HEALED, "fine")) as live:
        said = text_of(CHAT, (await live.ask("POST", CHAT, body_for(CHAT), x_session_id="one")).json)
        body = body_for(CHAT, **openai(["go", said, "go on"]))
        for name in ("two", "one"):
            answer = await live.ask("POST", CHAT, body, x_session_id=name)
            assert ("x-specguard-scrubbed" in answer.headers) is (name == "one")


async def test_the_switch_and_observers_leave_histories_as_they_are() -> None:
    looped = f"So.{UNIT * 9}\n\n[specguard] Stopped: the model repeats the same 12 tokens in its text, 9 times by now."
    body = body_for(CHAT, **openai(["go", looped, "go on"]))
    for guard in ({"scrub_history": False}, {"action": "observe"}):
        async with serving("fine", guard=guard) as live:
            answer = await live.ask("POST", CHAT, body)
            assert "x-specguard-scrubbed" not in answer.headers
            assert live.backend.requests[0].messages[1].text == looped
    async with serving("fine") as live:
        answer = await live.ask("POST", CHAT, body)
        assert answer.headers["x-specguard-scrubbed"] == str(
            len(looped) - len(live.backend.requests[0].messages[1].text)
        )
        json.dumps(answer.json)
