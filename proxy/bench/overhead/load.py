"""Clients that read streams of one arm for a while, and what they saw: time to the first word, gaps between words.

Must not: know which arm it is. Invariant: only streams that were read to their true end are counted.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp

from proxy.sse import EventReader

WORD = re.compile(r'"content":\s*"[^"]')
END = "[DONE]"
QUANTILES = (0.5, 0.9, 0.99)


class BrokenStream(Exception):
    """A stream that did not come to its end; the measurement is worthless."""


@dataclass(slots=True)
class Seen:
    """Seconds. first: from sending a request to its first word; gaps: between words that follow each other."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


def quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Nearest rank, at QUANTILES; values must not be empty."""
    ordered = sorted(values)
    return tuple(ordered[math.ceil(q * len(ordered)) - 1] for q in QUANTILES)


async def read_streams(base: str, body: bytes, streams: int, seconds: float, words: int, seed: int) -> Seen:
    """`streams` clients, each beginning its next request at once after the last one. Raises BrokenStream.

    words: that a whole response has. The first requests are spread over one response's time, so that the clients do
    not march in step.
    """
    seen, draw = Seen(), random.Random(seed)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_read=60)
    ) as http:
        began = time.perf_counter()
        await _read(http, base, body, words, Seen())  # opens a connection and warms every path
        whole = time.perf_counter() - began
        until = time.perf_counter() + seconds + whole

        async def client() -> None:
            await asyncio.sleep(draw.random() * whole)
            while time.perf_counter() < until:
                await _read(http, base, body, words, seen)

        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(client())
    return seen


async def _read(http: aiohttp.ClientSession, base: str, body: bytes, words: int, seen: Seen) -> None:
    headers = {"content-type": "application/json"}
    times: list[float] = []
    reader, last = EventReader(), ""
    sent = time.perf_counter()
    async with http.post(f"{base}/v1/chat/completions", data=body, headers=headers) as response:
        if response.status != 200:
            raise BrokenStream(f"status {response.status}: {(await response.text())[:300]}")
        async for data in response.content.iter_any():
            now = time.perf_counter()
            for event in reader.feed(data):
                last = event.data
                if WORD.search(last):
                    times.append(now)
    if last != END or len(times) != words:
        raise BrokenStream(f"{len(times)} of {words} words, and {last[:300]!r} at the end")
    seen.first.append(times[0] - sent)
    seen.gaps += [b - a for a, b in pairwise(times)]
