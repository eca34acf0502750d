"""A client leaves at any point of a response: its streams are closed, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from policies.policy import Policy
from proxy.backends.lanes import LanesBackend
from proxy.conversation import ChatRequest, Message
from proxy.guard.session import GuardedSession
from proxy.lanes.settings import Lanes
from tests.proxy.lanes.pool import known, two_lanes
from tests.proxy.played import TOOLS, Sink
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Call, Reply, Text

SOUND = Reply((Text("I list it.\n"), Call("ls", {"path": "src"})))
BAD = Reply((Text("I list it.\n"), Call("ls", {"pth": "src"})))
REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),), TOOLS)
MOST = 2000


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("fast", [SOUND, BAD])
async def test_at_every_turn_of_the_loop(fast: Reply, step: int) -> None:
    """Of every second one, from both beginnings, so that each is met."""
    upstream = two_lanes("vllm", Lane(fast), Lane(SOUND))
    async with upstream.running():
        lanes = {"fast": {"url": upstream.base, "model": "fast"}, "plain": {"model": "plain"}}
        backend = LanesBackend(Lanes.model_validate(lanes), prober=known("vllm"))
        await backend.start()
        tasks, whole = len(asyncio.all_tasks()), 0
        for turns in range(step, MOST, 2):
            task = asyncio.create_task(read(backend))
            for _ in range(turns):
                await asyncio.sleep(0)
            whole += task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert backend.load.running == 0
            for server in backend.servers:
                connector = server.upstream.http.connector
                assert connector is not None and not connector._acquired, f"a connection is held after {turns} turns"
            if whole == 3:
                break
        assert whole == 3, "it never came to its end"
        assert {await seen.end() for seen in upstream.chats} == {"left", "finished"}
        await backend.stop()
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def read(backend: LanesBackend) -> None:
    session = GuardedSession(REQUEST, backend, Policy(), Sink(), backend.servers[0].mode)
    async with aclosing(session.events()) as events:
        async for _ in events:
            pass
