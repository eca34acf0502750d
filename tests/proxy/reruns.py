"""Guarded responses of the embedded model, with what it takes to run them again.

Must not: judge. Invariant: the requests are turns of the example agent on held-out tasks, the same in every run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from detectors.settings import DEFAULT, DetectorSettings
from engine.bench.workloads import conversations
from engine.kv import KVCache
from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.backends.builtin import BuiltinBackend
from proxy.conversation import ChatRequest, Message, PastCall, Tool
from proxy.events import Event
from proxy.guard.session import GuardedSession
from proxy.replays.automatic import AutomaticReplay, AutomaticSettings
from proxy.replays.runs import Limits
from proxy.sinks import Sinks
from tests.proxy.played import Sink

FAST = DecodeMode("mtp+ngram")
AT_ONCE = AutomaticSettings(Limits(4096, float("inf")), quiet_s=0.0)


def turns(conversation: int = 0) -> list[ChatRequest]:
    """The requests of one conversation; each begins with what the one before it had."""
    data = conversations()
    tools = tuple(Tool(**{**each["function"]}) for each in data["tools"])
    messages = data["agent"][conversation]["messages"]
    return [
        ChatRequest("openai.chat", "m", tuple(map(_message, messages[:at])), tools, max_tokens=160, request_id="req_1")
        for at, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def _message(plain: dict[str, Any]) -> Message:
    calls = tuple(
        PastCall(call.get("id", ""), call["function"]["name"], call["function"]["arguments"])
        for call in plain.get("tool_calls", ())
    )
    return Message(plain["role"], plain.get("content") or "", "", calls, plain.get("tool_call_id", ""))


@asynccontextmanager
async def started(plant: str | None = None, **options: Any) -> AsyncIterator[BuiltinBackend]:
    backend = BuiltinBackend(plant=plant, **options)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.stop()


async def guarded(
    backend: BuiltinBackend,
    request: ChatRequest,
    sink: Any,
    mode: DecodeMode = FAST,
    detectors: DetectorSettings = DEFAULT,
) -> list[Event]:
    """One response, as the server gives it."""
    thinking = backend.info.opens_thinking
    session = GuardedSession(request, backend, Policy(), sink, mode, thinking, detectors=detectors)
    return [event async for event in session.events()]


async def judged(
    backend: BuiltinBackend,
    requests: Sequence[ChatRequest],
    mode: DecodeMode = FAST,
    settings: AutomaticSettings = AT_ONCE,
) -> Sink:
    """Responses one after the other, until an incident was judged by itself; what a store would have been told."""
    sink, idle = Sink(), asyncio.Event()
    replays = AutomaticReplay(backend, sink.judged, idle, settings=settings)
    for request in requests:
        idle.clear()
        await guarded(backend, request, Sinks((sink, replays)), mode, settings.detectors)
        idle.set()
        async with asyncio.timeout(100):
            await replays.settled()
        if sink.judgements:
            break
    await replays.close()
    return sink


def poison(backend: BuiltinBackend) -> None:
    """The values of every kept prefix have the wrong sign, and too much of it."""
    for sequence in backend.engine.prefixes._kept:
        for cache in sequence.state.kv:
            assert isinstance(cache, KVCache)
            count = -(-sequence.prefilled // 256)
            keys, values = (x.transpose(1, 2).flatten(0, 1) for x in cache.tiles(0, count))
            cache.write(0, keys[: sequence.prefilled], values[: sequence.prefilled] * -3.0)


def seeded(request: ChatRequest, temperature: float, seed: int) -> ChatRequest:
    return replace(request, sampling=replace(request.sampling, temperature=temperature, seed=seed))
