"""Clients that read slowly, or not at all: the engine stands still for them, and in the end they are cut off."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy.server.outlet import ClientTooSlow, Outlet
from tests.proxy.live import CHAT, MESSAGES, RESPONSES, Live, body_for, serving
from tests.proxy.scripted import Script, ScriptedBackend

pytestmark = pytest.mark.usefixtures("nothing_blocks")
ENDS = {CHAT: b"data: [DONE]", MESSAGES: b"event: message_stop", RESPONSES: b"event: response.completed"}
NEVER = 3600.0
TOKENS = 6000
"""With some 200 bytes each, ten times what the sockets hold."""


def long_text() -> str:
    draw = random.Random(5)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=4)) for _ in range(TOKENS))


@asynccontextmanager
async def unread(live: Live, path: str, body: dict[str, Any]) -> AsyncIterator[socket.socket]:
    """A client that has sent its request and reads nothing; it has little room for what comes."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", int(live.base.rsplit(":", 1)[1])))
        await loop.sock_sendall(client, head + data)
        yield client


async def stands_still(backend: ScriptedBackend) -> int:
    """The steps that were taken when no further one was for a while."""
    steps, since = -1, 0
    while since < 20:
        await asyncio.sleep(0.01)
        now = backend.generations[0].steps if backend.generations else 0
        steps, since = (steps, since + 1) if now == steps > 0 else (now, 0)
    return steps


async def read_to(client: socket.socket, end: bytes) -> bytes:
    loop, seen = asyncio.get_running_loop(), bytearray()
    while end not in seen[-4000:] and (data := await loop.sock_recv(client, 65536)):
        seen += data
    return bytes(seen)


@pytest.mark.parametrize("path", ENDS)
async def test_the_engine_stands_still_for_who_does_not_read_and_for_nobody_else(path: str) -> None:
    backend = ScriptedBackend(Script(long_text(), width=1), Script("fine"))
    server, decode = {"unread_s": NEVER}, {"mode": "plain"}
    async with serving(backend, server=server, decode=decode) as live:
        async with unread(live, path, body_for(path, stream=True, max_tokens=None if path != MESSAGES else 10**6)) as c:
            steps = await stands_still(backend)
            assert 0 < steps < TOKENS / 4
            assert backend.generations[0].closes == 0
            for other in ENDS:
                assert b"fine" in (await live.post(other, stream=True)).body
            assert backend.generations[0].steps == steps
            # nothing is lost by it
            assert ENDS[path] in await read_to(c, ENDS[path])
            assert backend.generations[0].steps >= TOKENS
        await live.idle()


@pytest.mark.parametrize("path", ENDS)
async def test_who_reads_nothing_for_long_is_cut_off(path: str) -> None:
    backend = ScriptedBackend(Script(long_text(), width=1))
    with capture_logs() as logs:
        async with (
            serving(backend, server={"unread_s": 0.2, "keepalive_s": 0.05}, decode={"mode": "plain"}) as live,
            unread(live, path, body_for(path, stream=True, max_tokens=None if path != MESSAGES else 10**6)) as client,
        ):
            await stands_still(backend)
            await live.idle()
            assert backend.generations[0].closes == 1
            assert backend.generations[0].steps < TOKENS / 4
            with pytest.raises(ConnectionResetError):
                await read_to(client, ENDS[path])
    told = [line for line in logs if line["event"] == "client.too_slow"]
    assert [line["log_level"] for line in told] == ["warning"]
    (end,) = [line for line in logs if line["event"] == "request.end"]
    assert (end["outcome"], end["request_id"]) == ("abandoned", told[0]["request_id"])


async def test_a_whole_response_does_not_wait_for_ever_either() -> None:
    raised: list[Exception] = []
    done = asyncio.Event()

    async def handler(http: web.Request) -> web.StreamResponse:
        response = web.Response(body=b"x" * (8 << 20))
        try:
            await Outlet(http, response, 0.1).finish()
        except Exception as error:
            raised.append(error)
        done.set()
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with socket.socket() as client:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, runner.addresses[0])
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with asyncio.timeout(60):
            await done.wait()
            with pytest.raises(ConnectionResetError):
                await read_to(client, b"never")
    await runner.cleanup()
    assert [type(error) for error in raised] == [ClientTooSlow]
    assert str(raised[0]) == "the client has read nothing for 0.1 s"


async def test_what_was_sent_is_not_left_in_this_process() -> None:
    """Small frames too: asyncio would take 64 KiB of them for a client that does not read."""
    left: list[int] = []
    stuck = asyncio.Event()

    async def handler(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        outlet = Outlet(http, response, NEVER)
        assert http.transport is not None
        while not stuck.is_set():
            await outlet.send(b"x" * 1000)
            left.append(http.transport.get_write_buffer_size())
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, runner.addresses[0])
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        before = -1
        while before != len(left) or not left:
            before = len(left)
            await asyncio.sleep(0.1)
        stuck.set()
    await runner.cleanup()
    assert set(left) == {0}


async def test_who_reads_slowly_but_steadily_is_waited_for() -> None:
    """One frame may take longer than `unread_s`, as long as some of it is read: a long response over a thin line."""
    done = asyncio.Event()

    async def handler(http: web.Request) -> web.StreamResponse:
        response = web.Response(body=b"x" * (8 << 20))
        await Outlet(http, response, 0.5).finish()
        done.set()
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, runner.addresses[0])
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        begun, seen = loop.time(), 0
        while seen < 8 << 20:
            data = await loop.sock_recv(client, 1 << 17)
            assert data, "it was cut off"
            seen += len(data)
            if loop.time() - begun < 2.0:  # four times what a client that reads nothing gets
                await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            await done.wait()
    await runner.cleanup()


async def test_a_timeout_that_is_not_ours_is_not_blamed_on_the_client() -> None:
    class Odd(web.Response):
        async def write_eof(self, data: bytes = b"") -> None:
            raise TimeoutError("somebody else's")

    raised: list[Exception] = []

    async def handler(http: web.Request) -> web.StreamResponse:
        try:
            await Outlet(http, Odd(), NEVER).finish()
        except Exception as error:
            raised.append(error)
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0])
    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    await writer.wait_closed()
    await runner.cleanup()
    assert [type(error) for error in raised] == [TimeoutError]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_is_freed_with_its_response_and_not_when_cycles_are_collected(stream: bool) -> None:
    """It holds the body, which may be megabytes."""
    backend = ScriptedBackend(Script("fine"))

    def requests() -> int:
        return sum(type(each) is web.Request and each.path in ENDS for each in gc.get_objects())

    async with serving(backend) as live:
        assert (await live.post(CHAT, stream=stream)).status == 200
        gc.collect()
        gc.disable()
        try:
            before = requests()
            for _ in range(4):
                for path in ENDS:
                    assert (await live.post(path, stream=stream)).status == 200
            await live.idle()
            assert requests() <= before + 1  # the last one's connection may not have ended yet
        finally:
            gc.enable()
