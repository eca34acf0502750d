"""Clients of all kinds: they read at once, slowly or not at all, leave in mid-stream, or never finish their request.

Must not: share a connection; a kind is one request on a connection of its own.
Invariant: what a client went through is told in one word, and each kind has words that are right for it.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.bench.workloads import conversations
from engine.engine import EMBEDDED

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
ENDS = {CHAT: b"data: [DONE]", MESSAGES: b"event: message_stop", RESPONSES: b"event: response.completed"}
MODEL = "specguard-embedded"
SCHEMA_AT = {MESSAGES: "input_schema", RESPONSES: "parameters"}


@cache
def never_ends() -> dict[str, int]:
    """A bias against whatever would end a response or begin a call."""
    tokens = json.loads((EMBEDDED / "tokenizer.json").read_text())["added_tokens"]
    return {str(token["id"]): -100 for token in tokens}


def long_body(draw: random.Random, tokens: range) -> dict[str, Any]:
    """Text at random."""
    ask = [{"role": "user", "content": f"Tell me about number {draw.randrange(10**6)}."}]
    body = {"model": MODEL, "messages": ask, "stream": True, "temperature": 1.5, "seed": draw.randrange(2**31)}
    return body | {"max_tokens": draw.choice(tokens), "logit_bias": never_ends()}


def wide_body(draw: random.Random, tokens: range) -> dict[str, Any]:
    """The same with some kilobytes for each token, so that sockets are soon full."""
    return long_body(draw, tokens) | {"logprobs": True, "top_logprobs": 20}


def agent_body(path: str, draw: random.Random) -> dict[str, Any]:
    """A turn of an agent: tools, and a task that the model solves with calls or text."""
    opening = draw.choice(conversations()["agent"])["messages"][:2]
    tools = [tool["function"] for tool in conversations()["tools"]]
    system, ask = opening[0]["content"], opening[1]["content"]
    body: dict[str, Any] = {"model": MODEL, "stream": draw.random() < 0.7, "temperature": draw.choice((0, 0.8))}
    user = [{"role": "user", "content": ask}]
    if path == CHAT:
        body |= {"messages": [{"role": "system", "content": system}, *user], "max_tokens": 300}
        body["tools"] = [{"type": "function", "function": tool} for tool in tools]
        return body
    renamed = [{"name": t["name"], SCHEMA_AT[path]: t["parameters"]} for t in tools]
    if path == MESSAGES:
        return body | {"system": system, "messages": user, "max_tokens": 300, "tools": renamed}
    renamed = [tool | {"type": "function", "strict": False} for tool in renamed]
    return body | {"instructions": system, "input": user, "max_output_tokens": 300, "tools": renamed}


@dataclass(frozen=True, slots=True)
class Line:
    """A connection that has sent its request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """Ends it as a client does that was killed, at once and without a goodbye."""
        sock = self.writer.get_extra_info("socket")
        if sock.fileno() >= 0:  # else the server was faster
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def send(port: int, path: str, body: dict[str, Any], receive: int = 0, share: float = 1.0) -> Line:
    """receive: size of the socket's receive buffer, 0 = the system's. share: of the body that is sent."""
    sock = socket.socket()
    if receive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive or 1 << 16)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data[: int(len(data) * share)])
    return Line(reader, writer)


def word(path: str, heard: bytes) -> str:
    """How a response ended that was read to its end."""
    status = heard[9:12].decode()
    if status != "200":
        return status
    if b"text/event-stream" not in heard:
        return "complete"
    return "complete" if ENDS[path] in heard[-4000:] and heard.endswith(b"0\r\n\r\n") else "broken"


async def whole(port: int, draw: random.Random) -> str:
    path = draw.choice((CHAT, MESSAGES, RESPONSES))
    line = await send(port, path, agent_body(path, draw))
    try:
        return word(path, await line.reader.read())
    finally:
        line.reset()


async def long(port: int, draw: random.Random) -> str:
    line = await send(port, CHAT, long_body(draw, range(50, 400)))
    try:
        return word(CHAT, await line.reader.read())
    finally:
        line.reset()


async def slow(port: int, draw: random.Random) -> str:
    """Reads less than is made, and sometimes nothing for a while."""
    line = await send(port, CHAT, wide_body(draw, range(40, 160)), receive=16384)
    heard = b""
    try:
        while data := await line.reader.read(4096):
            heard = heard[-8000:] + data if len(heard) > 200 else heard + data
            await asyncio.sleep(4.0 if draw.random() < 0.02 else 0.5)
        return "complete" if ENDS[CHAT] in heard else "broken"
    except ConnectionError:
        return "cut off"
    finally:
        line.reset()


async def stalled(port: int, draw: random.Random) -> str:
    """Reads nothing at all. The server must not wait for ever."""
    line = await send(port, CHAT, wide_body(draw, range(1000, 2000)), receive=4096)
    line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # what it is on every system
    try:
        sock = line.writer.get_extra_info("socket")
        while not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # noqa: ASYNC110  # no event of the loop
            await asyncio.sleep(0.5)
        return "cut off"
    finally:
        line.reset()


async def leaving(port: int, draw: random.Random) -> str:
    """Leaves before the first byte, or after some."""
    line = await send(port, CHAT, long_body(draw, range(1000, 2000)))
    try:
        wanted = draw.choice((0, 1, 2000, 20000, 60000))
        if not wanted:
            await asyncio.sleep(draw.random() / 4)
        while wanted > 0 and (data := await line.reader.read(4096)):
            wanted -= len(data)
        return "left"
    finally:
        if draw.random() < 0.5:
            line.reset()
        line.writer.close()


async def half(port: int, draw: random.Random) -> str:
    """Sends half a body and waits."""
    line = await send(port, MESSAGES, agent_body(MESSAGES, draw), share=0.5)
    try:
        return word(MESSAGES, await line.reader.readuntil(b"\r\n\r\n"))
    finally:
        line.reset()


async def wrong(port: int, draw: random.Random) -> str:
    line = await send(port, RESPONSES, agent_body(RESPONSES, draw) | {"temperature": 99})
    try:
        await asyncio.sleep(1 + draw.random())
        return word(RESPONSES, await line.reader.read())
    finally:
        line.reset()


Kind = Callable[[int, random.Random], Awaitable[str]]
KINDS: dict[str, tuple[Kind, int, frozenset[str]]] = {
    "whole": (whole, 16, frozenset({"complete"})),
    "long": (long, 12, frozenset({"complete"})),
    "slow": (slow, 12, frozenset({"complete"})),
    "stalled": (stalled, 4, frozenset({"cut off"})),
    "leaving": (leaving, 16, frozenset({"left"})),
    "half": (half, 2, frozenset({"408"})),
    "wrong": (wrong, 2, frozenset({"400"})),
}
"""By name: what it does, how many of them there are at once, and what may happen to one."""
