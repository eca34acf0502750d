"""Whatever a client sends: an answer or a refusal in its API's shape, never a 500, never a hang, and the next one is
served. 10,000 bodies in `make test-slow`, a slice of them always; some of them with the embedded model behind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from policies.modes import DecodeMode
from proxy.backends.builtin import BuiltinBackend
from proxy.conversation import ChatRequest
from tests.proxy.live import CHAT, COUNT, MESSAGES, RESPONSES, Answer, Live, serving
from tests.proxy.mutated_bodies import VALID, mutated
from tests.proxy.scripted import Script, ScriptedBackend, call_text

PATHS = [CHAT, RESPONSES, MESSAGES, COUNT]
ANSWER = Script(f"<think>\nhm\n</think>\n\nI look.\n{call_text('ls', path='src')}")
AT_ONCE = 16
HANG_S = 60


def check(path: str, number: int, answer: Answer) -> str:
    """What became of it. Raises AssertionError."""
    where = f"{path} body {number}: {answer.status} {answer.body[:300]!r}"
    if answer.status == 200:
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert not answer.broken, where
            return "stream"
        assert isinstance(answer.json, dict), where
        return "whole"
    assert 400 <= answer.status < 500, where
    error = answer.json["error"]
    assert isinstance(error["message"], str), where
    assert error["message"], where
    if path in (MESSAGES, COUNT):
        assert (answer.json["type"], bool(error["type"])) == ("error", True), where
        assert answer.json["request_id"] == answer.headers["request-id"], where
    else:
        assert set(error) == {"message", "type", "param", "code"}, where
    assert answer.headers["x-should-retry"] == "false", where
    return str(answer.status)


async def send(live: Live, numbers: Sequence[int]) -> Counter[str]:
    """All paths, several at once. Raises AssertionError."""
    places = asyncio.Semaphore(AT_ONCE)
    seen: Counter[str] = Counter()

    async def one(path: str, number: int) -> None:
        async with places, asyncio.timeout(HANG_S):
            answer = await live.ask("POST", path, mutated(path, number), content_type="application/json")
        seen[check(path, number, answer)] += 1

    for start in range(0, len(numbers), 64):
        await asyncio.gather(*(one(path, number) for number in numbers[start : start + 64] for path in PATHS))
    return seen


async def is_healthy(live: Live, model: str) -> bool:
    await live.idle()
    answers = [await live.ask("POST", path, VALID[path] | {"model": model}) for path in PATHS]
    assert [answer.status for answer in answers] == [200] * len(PATHS), [answer.body[:300] for answer in answers]
    return (await live.ask("GET", "/ready")).status == 200


async def _run(numbers: range) -> None:
    backend = ScriptedBackend(ANSWER)
    backend.capabilities = replace(backend.capabilities, constraints=True)
    async with serving(backend, model={"any_name": True}) as live:
        seen = await send(live, numbers)
        assert await is_healthy(live, "scripted")
    # most accidents hit something that matters, and enough bodies survive them to be answered
    assert min(seen["400"], seen["stream"] + seen["whole"]) > 0.15 * seen.total(), seen
    assert seen["stream"], seen


async def test_a_slice_of_the_mutated_bodies() -> None:
    await _run(range(300))


@pytest.mark.slow
async def test_all_10000_mutated_bodies() -> None:
    await _run(range(300, 2800))


class Brief(BuiltinBackend):
    """The engine, for responses of a few tokens."""

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> Any:
        return await super().generate(replace(request, max_tokens=3), mode)


async def _run_engine(numbers: range) -> None:
    sections: dict[str, Any] = {"model": {"any_name": True, "max_waiting": 64}}
    async with serving(Brief(max_waiting=64), **sections) as live:  # type: ignore[arg-type]
        seen = await send(live, numbers)
        assert seen["stream"] + seen["whole"] > 0
        assert await is_healthy(live, "specguard-embedded")


async def test_some_reach_the_engine() -> None:
    await _run_engine(range(8))


@pytest.mark.slow
async def test_many_reach_the_engine() -> None:
    await _run_engine(range(8, 508))


def test_a_body_can_be_made_again() -> None:
    for path in PATHS:
        assert mutated(path, 7) == mutated(path, 7)
        assert len({mutated(path, number) for number in range(100)}) > 95
    json.loads(json.dumps(VALID))
