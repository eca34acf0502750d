"""How long the server waits for clients: for a request, for the whole of a body; how many may wait for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from proxy.backends.builtin import BuiltinBackend
from tests.proxy.live import CHAT, COUNT, MESSAGES, RESPONSES, Live, body_for, serving
from tests.proxy.wire.frames import read_frames

pytestmark = pytest.mark.usefixtures("nothing_blocks")
NEVER = 3600.0
HEAD = "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"


@asynccontextmanager
async def connected(live: Live, first: str) -> AsyncIterator[asyncio.StreamReader]:
    """A client that sends this and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(live.base.rsplit(":", 1)[1]))
    writer.write(first.encode())
    async with asyncio.timeout(60):
        yield reader
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COUNT])
async def test_half_a_body_is_not_waited_for_for_ever(path: str) -> None:
    async with serving("fine", server={"body_s": 0.1}) as live:
        async with connected(live, HEAD.format(path=path) + '{"model":') as reader:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"}}" if path in (CHAT, RESPONSES) else b"}")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"x-should-retry: true" in head.lower() and b"server.body_s" in body
        assert live.backend.requests == []
        assert b"fine" in (await live.post(CHAT)).body


@pytest.mark.parametrize(
    "first", ["", "GET /health HTTP/1.1\r\nhost: loc", "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"]
)
async def test_a_connection_without_a_request_is_closed(first: str) -> None:
    """Also one that has sent half a head, or was answered and asks nothing more."""
    async with serving("fine", server={"idle_s": 0.2}) as live, connected(live, first) as reader:
        answer = await reader.read()  # to the end of the connection
        assert answer.startswith(b"HTTP/1.1 200 ") if first.endswith("\r\n\r\n") else not answer


async def test_a_full_queue_is_told_in_each_apis_own_way() -> None:
    """A place, a place in the queue, and everybody else is told when to come again; then it is free for the next."""
    backend = BuiltinBackend(max_turns=1, max_waiting=1)
    async with serving(cast(Any, backend), server={"unread_s": NEVER}) as live:
        slow = dict(model="specguard-embedded", stream=True, temperature=1.5, seed=1)
        bias = {str(token): -100 for token in range(3)}
        holds = [asyncio.ensure_future(live.post(CHAT, **slow, max_tokens=300, logit_bias=bias)) for _ in range(2)]
        while (backend.load.running, backend.load.waiting) != (1, 1):  # noqa: ASYNC110  # it is no event
            await asyncio.sleep(0.001)
        for path, status, kind in [
            (CHAT, 429, "rate_limit_error"),
            (RESPONSES, 429, "rate_limit_error"),
            (MESSAGES, 529, "overloaded_error"),
        ]:
            for stream in (True, False):
                answer = await live.ask("POST", path, body_for(path, model="specguard-embedded", stream=stream))
                assert (answer.status, answer.json["error"]["type"]) == (status, kind)
                assert int(answer.headers["retry-after"]) > 0 and answer.headers["x-should-retry"] == "true"
        for held in holds:
            answer = await held
            assert answer.status == 200 and read_frames(answer.body)
        assert (backend.load.running, backend.load.waiting) == (0, 0)
        assert (await live.post(CHAT, model="specguard-embedded", max_tokens=4)).status == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES, COUNT])
async def test_a_body_that_is_not_compressed_as_it_says_is_the_clients_mistake(path: str) -> None:
    async with serving("fine") as live:
        answer = await live.ask("POST", path, b"no gzip", content_encoding="gzip")
    assert (answer.status, answer.headers["x-should-retry"]) == (400, "false")
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert "content-encoding" in answer.json["error"]["message"]
