"""The measured server is the whole one: readiness, metrics and policy of the guard are there, and the source behind."""

from __future__ import annotations

import asyncio

import aiohttp

from proxy.bench.overhead.bodies import SIZES, body_of
from proxy.bench.overhead.lane_source import words
from proxy.bench.overhead.load import read_streams
from proxy.bench.overhead.processes import module
from proxy.bench.overhead.source import TEXT


async def test_the_whole_server_stands_before_the_source() -> None:
    async with (
        module("proxy.bench.overhead.source", "--gap-s", "0") as origin,
        module("proxy.bench.overhead.hosted", "--upstream", origin) as base,
        aiohttp.ClientSession() as http,
    ):
        ready = await (await http.get(f"{base}/ready")).json()
        assert (ready["ready"], ready["guard"], ready["mode"]) == (True, "enforce", "plain")
        headers = {"content-type": "application/json"}
        body = body_of(SIZES["1 kB"]).replace(b'"stream":true', b'"stream":false')
        answer = await (await http.post(f"{base}/v1/chat/completions", data=body, headers=headers)).json()
        assert answer["choices"][0]["message"]["content"] == TEXT
        metrics = await (await http.get(f"{base}/metrics")).text()
        assert "specguard_" in metrics


async def test_it_serves_and_tells_its_processor_time() -> None:
    async with (
        module("proxy.bench.overhead.lane_source", "--gap-s", "0", "--width", "4") as origin,
        module("proxy.bench.overhead.hosted", "--lanes", "--upstream", origin) as ours,
        aiohttp.ClientSession() as http,
    ):
        async with http.get(f"{ours}/cpu") as response:
            before = float(await response.json())
        await read_streams(ours, body_of(1000), 1, 0.0, "".join(words()), seed=0)
        async with http.get(f"{ours}/cpu") as response:
            assert float(await response.json()) > before


async def test_its_lanes_answer_when_they_are_looked_at() -> None:
    async with (
        module("proxy.bench.overhead.lane_source", "--gap-s", "0", "--width", "4") as origin,
        module("proxy.bench.overhead.hosted", "--lanes", "--upstream", origin) as ours,
        aiohttp.ClientSession() as http,
    ):
        for _ in range(10):  # the first look comes at once
            async with http.get(f"{ours}/ready") as response:
                ready = await response.json()
            if response.status == 200:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        async with http.get(f"{ours}/ready") as response:
            assert response.status == 200, await response.text()
        assert all(lane["answers"] for lane in ready["lanes"].values())
