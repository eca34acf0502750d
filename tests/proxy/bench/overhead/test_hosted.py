"""The measured server is the whole one: readiness, metrics and policy of the guard are there, and the source behind."""

from __future__ import annotations

import aiohttp

from proxy.bench.overhead.bodies import SIZES, body_of
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
