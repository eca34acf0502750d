"""Reads that are small enough to be cheap: on connections to lanes, and without losing anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.lanes.settings import Lane, Lanes
from proxy.lanes.upstream import Upstream
from proxy.small_reads import READ_BYTES, read_little
from tests.proxy.lanes.raw import DONE, HEAD, Asked, event, raw


async def test_a_long_message_comes_whole_in_small_pieces() -> None:
    sent, pieces, done = bytes(range(256)) * 4096, list[bytes](), asyncio.Event()

    class Receiver(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            read_little(transport)

        def data_received(self, data: bytes) -> None:
            pieces.append(data)
            if sum(map(len, pieces)) >= len(sent):
                done.set()

    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        await done.wait()
        writer.close()
        await writer.wait_closed()
    assert b"".join(pieces) == sent
    assert max(map(len, pieces)) <= READ_BYTES


@pytest.mark.parametrize("transport", [None, asyncio.Transport()])
def test_a_transport_that_reads_otherwise_stays_as_it_is(transport: Any) -> None:
    read_little(transport)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """(whose connection, bytes) of every read in this process."""
    found: list[tuple[Any, int]] = []
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    read = transport._read_ready__data_received

    def noted(self: Any) -> None:
        found.append((self.get_protocol(), self.max_size))
        read(self)

    monkeypatch.setattr(transport, "_read_ready__data_received", noted)
    return found


async def test_connections_to_a_lane_read_little_once_it_answers(asked: list[tuple[Any, int]]) -> None:
    async def answer(to: Asked) -> None:
        for piece in (HEAD, event(delta={"content": "hi"}), event(finish_reason="stop") + DONE):
            await to.send(piece)
            await asyncio.sleep(0.01)

    async with raw(answer) as server:
        lane = Lane(url=server.url)
        upstream = Upstream("fast", lane, Lanes(fast=lane), {})
        stream = await upstream.stream({"messages": []})
        while await stream.next() is not None:
            pass
        await upstream.close()
    sizes = [size for protocol, size in asked if type(protocol).__name__ == "ResponseHandler"]
    assert len(sizes) > 1
    assert set(sizes[1:]) == {READ_BYTES}
