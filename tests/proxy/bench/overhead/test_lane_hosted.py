"""The guard over scripted lanes, as a process: it serves, and tells its processor time."""

from __future__ import annotations

import aiohttp

from proxy.bench.overhead.bodies import body_of
from proxy.bench.overhead.lane_source import words
from proxy.bench.overhead.load import read_streams
from proxy.bench.overhead.processes import module


async def test_it_serves_and_tells_its_processor_time() -> None:
    async with (
        module("proxy.bench.overhead.lane_source", "--gap-s", "0", "--width", "4") as origin,
        module("proxy.bench.overhead.lane_hosted", "--upstream", origin) as ours,
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"{ours}/cpu") as response:
            before = float(await response.json())
        await read_streams(ours, body_of(1000), 1, 0.0, len(words()) // 4, seed=0)
        async with http.get(f"{ours}/cpu") as response:
            assert float(await response.json()) > before
