"""What a response held is free as soon as it has ended, however it did: a cache can be gigabytes, and cycles of objects
are collected when it suits the interpreter, which knows nothing of a device's memory."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest

from engine.turn import Turn
from proxy.backends.builtin import BuiltinBackend
from tests.proxy.live import CHAT, MESSAGES, RESPONSES, Live, body_for, serving

MODEL = "specguard-embedded"
ENDS = {CHAT: {"max_tokens": 12}, MESSAGES: {"max_tokens": 12}, RESPONSES: {"max_output_tokens": 12}}


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nobody collects cycles meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def turns(backend: BuiltinBackend) -> int:
    """Of this engine; other tests may have left some of theirs in a fixture."""
    model = backend.engine.model
    return sum(type(thing) is Turn and thing.sequence.model is model for thing in gc.get_objects())


async def leave(live: Live, path: str, stream: bool) -> None:
    """Asks, and goes away in the middle of it."""
    body = body_for(path, model=MODEL, stream=stream, temperature=1.5, seed=3)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(live.base.rsplit(":", 1)[1]))
    data = json.dumps(body).encode()
    writer.write(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    if stream:
        await reader.readuntil(b"data: ")
    else:
        async with asyncio.timeout(60):
            while not live.service.in_flight:  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(0.001)
    writer.close()
    await writer.wait_closed()


async def settle(live: Live, backend: BuiltinBackend) -> None:
    """Until handler, loop and worker have let go of what they had in hand."""
    await live.idle()
    await backend.run(lambda: None)
    with suppress(TimeoutError):
        async with asyncio.timeout(20):
            while turns(backend):  # noqa: ASYNC110  # nobody tells when they are gone; what only a collection frees stays
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("uncollected")
async def test_nothing_is_left_of_a_response() -> None:
    backend = BuiltinBackend(keep=0)
    async with serving(cast(Any, backend), breaker={"canary_tokens": 0}, replay={"automatic": False}) as live:
        for path, most in ENDS.items():
            for stream in (True, False):
                assert (await live.post(path, model=MODEL, stream=stream, **most)).status == 200
                await settle(live, backend)
                assert turns(backend) == 0, f"after a response of {path} (stream: {stream})"
                await leave(live, path, stream)
                await settle(live, backend)
                assert turns(backend) == 0, f"after a client of {path} has left (stream: {stream})"
