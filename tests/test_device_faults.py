"""A worker that dies and a step that hangs, in the real engine behind the real server: what a client, an operator and
the incident store get to see, and that the next request is served as if nothing had been."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from engine.bench.workloads import conversations
from engine.faults import Fault
from engine.planted_device import PlantedDevice
from proxy.backends.builtin import BuiltinBackend
from tests.proxy.live import CHAT, Answer, Live, payloads, serving

pytestmark = pytest.mark.asyncio


def repair() -> list[dict[str, Any]]:
    """A repair up to the answer at its end, as a client sends it."""
    sent: list[dict[str, Any]] = []
    for index, message in enumerate(conversations()["agent"][0]["messages"]):
        sent.append(dict(message))
        if message["role"] == "tool":
            sent[-1]["tool_call_id"] = f"call_{index - 1}"
        for call in message.get("tool_calls", ()):
            function = call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}
            sent[-1]["tool_calls"] = [{"id": f"call_{index}", "type": "function", "function": function}]
    return sent[: max(i for i, message in enumerate(sent) if message["role"] == "assistant")]


ASK: dict[str, Any] = {
    "model": "specguard-embedded",
    "messages": repair(),
    "tools": conversations()["tools"],
    "temperature": 0,
    "stream": True,
}
"""The answer is text of some 16 tokens."""


@asynccontextmanager
async def planted(fault: Fault, stuck_s: float = 60.0) -> AsyncIterator[tuple[Live, BuiltinBackend]]:
    backend = BuiltinBackend(plant=fault, stuck_s=stuck_s)
    async with serving(cast(Any, backend), decode={"mode": "plain"}) as live:
        yield live, backend


def said(answer: Answer) -> str:
    return "".join(
        chunk["choices"][0]["delta"].get("content") or ""
        for chunk in payloads(answer.body)
        if chunk != "[DONE]" and chunk.get("choices")
    )


async def until_ready(live: Live) -> None:
    async with asyncio.timeout(120):
        while (await live.ask("GET", "/ready")).status != 200:  # noqa: ASYNC110  # a server tells when it is asked
            await asyncio.sleep(0.1)


async def test_a_worker_that_dies_fails_its_response_and_is_replaced() -> None:
    async with planted(Fault.WORKER_DIES) as (live, backend):
        reloading, let = asyncio.Event(), asyncio.Event()

        async def reload_when_let() -> None:
            reloading.set()
            await let.wait()
            await original()

        original = backend._upkeep._reload
        backend._upkeep._reload = reload_when_let  # the interval is over too soon to look at it
        broken = await live.ask("POST", CHAT, ASK)
        assert b"the engine's worker died" in broken.body
        assert b"[DONE]" not in broken.body
        assert reloading.is_set()
        ready = await live.ask("GET", "/ready")
        assert (ready.status, ready.json["ready"]) == (503, False)
        assert "a fresh engine is being loaded" in ready.json["reason"]
        refused = await live.ask("POST", CHAT, ASK)
        assert refused.status == 503
        assert refused.headers["x-should-retry"] == "true"
        let.set()
        await until_ready(live)
        whole = await live.ask("POST", CHAT, ASK)
        assert payloads(whole.body)[-1] == "[DONE]"
        assert said(whole).startswith(said(broken))
        assert len(said(whole)) > len(said(broken))
        (incident,) = await live.incidents()
        assert incident.opened["detector"] == "stall.engine"
        assert incident.closed is not None

        backend.engine._device = PlantedDevice(Fault.WORKER_DIES)  # and once more
        await live.ask("POST", CHAT, ASK)
        ready = await live.ask("GET", "/ready")
        assert ready.status == 503
        assert "restart the server" in ready.json["reason"]
        refused = await live.ask("POST", CHAT, ASK)
        assert refused.status == 500
        assert refused.headers["x-should-retry"] == "false"


async def test_a_step_that_hangs_fails_those_who_wait_and_passes() -> None:
    async with planted(Fault.STEP_HANGS, stuck_s=4.0) as (live, backend):
        first = asyncio.ensure_future(live.ask("POST", CHAT, ASK))
        broken = await first
        assert b"has not returned from a step" in broken.body
        assert b"[DONE]" not in broken.body
        ready = await live.ask("GET", "/ready")
        assert ready.status == 503
        assert "has not returned from a step" in ready.json["reason"]
        assert (await live.ask("POST", CHAT, ASK)).status == 503
        (incident,) = await live.incidents()
        assert incident.opened["detector"] == "stall.engine"
        backend.engine.release()
        await until_ready(live)
        assert backend._queue.running == 0
        await backend.run(lambda: None)
        assert not backend.engine.prefixes._lent  # closed behind the step that hung
        backend.engine._device = PlantedDevice(None)
        whole = await live.ask("POST", CHAT, ASK)
        assert payloads(whole.body)[-1] == "[DONE]"
        assert said(whole).startswith(said(broken))
