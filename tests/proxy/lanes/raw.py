"""A server on loopback that sends exactly the bytes it is told to, and sees when its connection is closed.

Must not: know chat/completions beyond the shape of a chunk, or send anything by itself.
Invariant: when the context ends nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def event(**choice: Any) -> bytes:
    """An event with one choice; `delta` and whatever else stands in it."""
    choice = {"index": 0, "delta": {}, "finish_reason": None} | choice
    return data({"id": "x", "object": "chat.completion.chunk", "choices": [choice]})


def data(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


@dataclass(slots=True)
class Asked:
    """One request. gone: set when the client has closed the connection. closes: we do, behind the answer."""

    headers: dict[str, str]
    body: dict[str, Any]
    write: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    closes: bool = True

    async def send(self, piece: bytes) -> None:
        if piece.endswith(b"\r\n0\r\n\r\n"):  # a chunked body that is complete
            self.closes = False
        self.write.write(piece)
        await self.write.drain()


@dataclass(slots=True)
class Raw:
    url: str
    asked: list[Asked] = field(default_factory=list)


@asynccontextmanager
async def raw(answer: Callable[[Asked], Awaitable[None]]) -> AsyncIterator[Raw]:
    """answer: writes the whole response; the connection is closed behind it."""
    running: set[asyncio.Task[Any]] = set()

    async def serve(read: asyncio.StreamReader, write: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            while True:
                head = (await read.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
                body = await read.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(headers, json.loads(body or b"{}"), write)
                found.asked.append(asked)
                watch = asyncio.ensure_future(_until_closed(read, asked.gone))
                try:
                    await answer(asked)
                except ConnectionError:  # whoever writes may notice it before whoever reads
                    asked.gone.set()
                    raise
                finally:
                    watch.cancel()
                    await asyncio.gather(watch, return_exceptions=True)
                if asked.closes:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            running.discard(task)
            write.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found = Raw(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield found
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _until_closed(read: asyncio.StreamReader, gone: asyncio.Event) -> None:
    try:
        while await read.read(4096):
            pass
    except ConnectionError:
        pass
    gone.set()
