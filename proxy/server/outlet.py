"""How bytes leave: never faster than the client reads, and never for ever.

Must not: know what is sent. Invariant: when `send` or `finish` returns, nothing of it is left in this process, so that
whoever makes the next bytes stands still while the client does not read; a client that reads nothing for `unread_s`
is cut off, not waited for.

What lies between here and the client is the kernel's: a few KiB on this side, what the client's system grants on its.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

SEND_BUFFER = 32 << 10
"""Bytes that the kernel takes ahead of a client that does not read. Left to itself it takes megabytes: more than most
responses have, so that the engine would never learn that nobody reads."""
LOOKS = 4
"""In `unread_s`, whether the client has read some of a frame."""


class Streamed(web.StreamResponse):
    """Its headers leave together with the first bytes of its body: a call of the system less before the first word."""

    _send_headers_immediately = False  # aiohttp's own, of `web.Response`
    ended = False
    """Its end has left."""

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self.ended = True


class ClientTooSlow(ConnectionError):
    """The client was cut off, because it did not read."""


class Outlet:
    """Of one response. unread_s: how long a frame may wait for its client to read any of it."""

    def __init__(self, http: web.Request, response: web.StreamResponse, unread_s: float) -> None:
        self._http, self._response, self._unread_s = http, response, unread_s
        self._writer: AbstractStreamWriter | None = None
        _tighten(http.transport)

    async def send(self, data: bytes) -> None:
        """Headers, if they were not sent yet, and data. Raises ClientTooSlow and other ConnectionErrors."""
        if len(data) <= SEND_BUFFER:
            if self._writer is None:
                self._writer = await self._response.prepare(self._http)
            await self._response.write(data)  # does not wait: nothing is left of what came before
            if not _waiting(self._http.transport):
                return  # the kernel has taken it, as nearly always, and no timer was needed
            data = b""
        async with self._patience():
            if self._writer is None:
                self._writer = await self._response.prepare(self._http)
            if data:
                await self._response.write(data)
            if self._writer is not None:
                await self._writer.drain()

    async def finish(self, data: bytes = b"") -> None:
        """Whatever of the response was not sent yet, data of a streamed one, and its end. Raises as `send` does."""
        async with self._patience():
            await self._response.prepare(self._http)
            await self._response.write_eof(data)

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        patience = asyncio.timeout(self._unread_s)
        reading = _Reading(self._http, patience, self._unread_s)
        try:
            async with patience:
                yield
        except TimeoutError:
            if not patience.expired():
                raise
            cut_off(self._http)
            raise ClientTooSlow(f"the client has read nothing for {self._unread_s:g} s") from None
        finally:
            reading.over()


class _Reading:
    """Looks now and then whether a client reads; who has read something since the last look gets as long again.

    Nothing of it refers to itself once it is over: what is a part of a cycle keeps its request, with all of the body
    and its connection, until cycles are collected.
    """

    def __init__(self, http: web.Request, patience: asyncio.Timeout, unread_s: float) -> None:
        self._http, self._patience, self._unread_s = http, patience, unread_s
        self._loop, self._left = asyncio.get_running_loop(), 0
        self._timer: asyncio.Handle = self._loop.call_soon(self._look)  # once the frame was handed over

    def over(self) -> None:
        """No further look."""
        self._timer.cancel()

    def _look(self) -> None:
        before, self._left = self._left, _waiting(self._http.transport)
        if self._left < before and not self._patience.expired():
            self._patience.reschedule(self._loop.time() + self._unread_s)
        self._timer = self._loop.call_later(self._unread_s / LOOKS, self._look)


def cut_off(http: web.Request) -> None:
    """Ends the connection now, by a reset: an orderly end would wait until the client has read what is left."""
    transport = http.transport
    if transport is None:
        return
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _waiting(transport: asyncio.Transport | None) -> int:
    """Bytes that the kernel has not taken yet."""
    return 0 if transport is None else transport.get_write_buffer_size()


def _tighten(transport: asyncio.Transport | None) -> None:
    if transport is None:
        return
    if transport.get_write_buffer_limits() == (0, 0):
        return  # for an earlier response
    transport.set_write_buffer_limits(high=0)
    found = transport.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
