"""Lanes of scripted servers behind a live guard: who serves, from known-bad to trusted, and what /ready tells of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.backends.lanes import LanesBackend
from proxy.lanes.settings import Lanes
from proxy.trust.keeper import TrustKeeper
from tests.proxy.lanes.upstreams_of import answer
from tests.proxy.live import CHAT, Live, serving
from tests.upstreams.lanes import Asked, Lane
from tests.upstreams.replies import Call, Reply, Text
from tests.upstreams.server import Upstream

NOISE = Reply((Text("amber amber amber"),))


def good(asked: Asked) -> Reply:
    """As a model that has read the report."""
    text = str(asked.messages[-1]["content"])
    code = re.search(r"depot is (\d{4})", text)
    if code is None:
        return answer(asked)
    if "with the tool" in text:
        return Reply((Call("open_depot", {"code": code[1]}),))
    if "as JSON" in text:
        return Reply((Text(f'{{"code": "{code[1]}"}}'),))
    return Reply((Text(f"It is {code[1]}."),))


def bad_at(tokens: int) -> Callable[[Asked], Reply]:
    """Right for short prompts, noise for longer ones."""
    return lambda asked: NOISE if len(asked.prompt_ids) > tokens else good(asked)


@asynccontextmanager
async def guarded(
    fast: Lane, plain: Lane | None = None, **options: Any
) -> AsyncIterator[tuple[Live, Upstream, Upstream]]:
    lanes = options.pop("lanes", {})
    async with (
        Upstream("vllm", {"m": fast}, **options).running() as one,
        Upstream("vllm", {"m": plain or Lane(good, window=3000)}).running() as other,
    ):
        section = {"fast": {"url": one.base}, "plain": {"url": other.base}, "metrics_s": 0, "meter_share": 0} | lanes
        backend: Any = LanesBackend(Lanes.model_validate(section))
        sections = {
            "breaker": {"canary_quiet_s": 0.0, "cool_down_s": 0.01},
            "replay": {"automatic": False, "quiet_s": 0.0},
            "lanes": section,
        }
        async with serving(backend, **sections) as live:
            yield live, one, other


async def ready(live: Live) -> dict[str, Any]:
    body: dict[str, Any] = (await live.ask("GET", "/ready")).json
    return body


async def mode_of(live: Live) -> str:
    answered = await live.post(CHAT, model="m")
    assert answered.status == 200, answered.body
    return answered.headers["x-specguard-mode"]


async def until(live: Live, true: Callable[[TrustKeeper], bool]) -> None:
    """Fails instead of waiting for ever."""
    keeper = live.service.keeper
    assert keeper is not None
    async with asyncio.timeout(60):
        while True:
            if true(keeper):
                return
            await asyncio.sleep(0.01)


def known_bad(says: Any, **options: Any) -> Lane:
    return Lane(says, width=4, speculation="eagle3", kv="turboquant_k8v4", window=3000, **options)


def all_closed(keeper: TrustKeeper) -> bool:
    return bool(keeper.records) and all(record.state == "closed" for record in keeper.records.values())


@pytest.mark.parametrize("kv", ["auto", "fp8"])
async def test_a_known_bad_lane_serves_when_its_canaries_have_passed(kv: str) -> None:
    """Also where the plain lane's own cache is compressed."""
    async with guarded(known_bad(good), Lane(good, kv=kv, window=3000)) as (live, fast, plain):
        await until(live, all_closed)
        body = await ready(live)
        rows = body["lanes"]["fast"]["known_bad"]
        assert {row["id"] for row in rows if row["untrusted"]} == {"turboquant-speculation", "turboquant-prefix-cache"}
        assert [b["state"] for b in body["trust"]["breakers"]] == ["closed", "closed"]
        assert "passed" in body["canary"] and "proves nothing" not in body["canary"]
        assert body["lanes"]["fast"]["poisoned"] == {"state": "sound", "why": None}
        before = len(fast.chats)
        assert (await mode_of(live)).startswith("mtp") and len(fast.chats) == before + 1
        lengths = [len(seen.body["messages"][-1]["content"]) for seen in fast.chats if "depot" in str(seen.body)]
        assert min(lengths) * 2 < max(lengths)  # one for each bucket
        assert len([seen for seen in plain.chats if "depot" in str(seen.body)]) == 8  # once for each question


async def test_a_lane_that_fails_at_length_is_trusted_up_to_there() -> None:
    def short_is_back(keeper: TrustKeeper) -> bool:
        states = [(key.bucket, record.state, record.confirmed) for key, record in keeper.records.items()]
        return sorted(states)[0][1] == "closed" and sorted(states)[1][2]

    async with guarded(known_bad(bad_at(2000))) as (live, fast, _):
        await until(live, short_is_back)
        assert await mode_of(live) != "plain"
        long = [{"role": "user", "content": "word " * 1500}]
        answered = await live.post(CHAT, model="m", messages=long)
        assert answered.headers["x-specguard-mode"] == "plain"
        assert "breaker" in answered.headers["x-specguard-mode-reason"]
        body = await ready(live)
        assert {b["bucket"]: b["state"] != "closed" for b in body["trust"]["breakers"]} == {"0-1k": False, "1-4k": True}
        assert fast.chats


async def test_a_poisoned_lane_stays_out_and_the_reason_is_told() -> None:
    async with guarded(known_bad(good)) as (live, fast, _):
        await until(live, all_closed)
        fast.lanes["m"] = Lane(Reply((Text("!" * 3000),)), width=4, speculation="eagle3", window=3000)
        answered = await live.post(CHAT, model="m", max_tokens=2500)
        assert answered.status == 200 and answered.body.count(b"!") < 300  # the detection window at most
        await until(live, lambda keeper: any(record.state != "closed" for record in keeper.records.values()))
        await until(live, lambda keeper: any(record.confirmed for record in keeper.records.values()))
        body = await ready(live)
        assert body["lanes"]["fast"]["poisoned"]["state"] == "poisoned"
        assert "failed" in body["canary"] and "restart that server" in body["canary"]
        assert await mode_of(live) == "plain"
    assert "poisoned" in [trip.incident for record in _records(live) for trip in record.trips]


def _records(live: Live) -> list[Any]:
    assert live.service.keeper is not None
    return list(live.service.keeper.records.values())


async def test_where_hits_are_not_told_the_canary_says_so() -> None:
    """A server whose prefix cache is off, or does not tell of hits: vLLM without --enable-prompt-tokens-details."""
    async with guarded(known_bad(good), caches=False) as (live, _, _):
        await until(live, all_closed)
        assert "it proves nothing about that cache" in (await ready(live))["canary"]


async def test_a_sound_lane_serves_from_the_start() -> None:
    async with guarded(Lane(good, width=4, speculation="eagle3", kv="fp8", window=3000)) as (live, fast, _):
        assert await mode_of(live) != "plain" and live.service.keeper is not None
        assert not live.service.keeper.records and fast.chats


@pytest.mark.parametrize(("says", "drifts"), [(good, False), (NOISE, True)], ids=["sound", "lying"])
async def test_drift_is_shown(says: Any, drifts: bool) -> None:
    lane = Lane(says, width=4, speculation="eagle3", kv="fp8", window=3000)
    async with guarded(lane, lanes={"meter_share": 1.0}) as (live, _, _):
        answered = await live.post(CHAT, model="m")
        assert answered.status == 200
        watch = live.service.lane_watch
        assert watch is not None
        async with asyncio.timeout(60):
            while True:
                if watch.figures:
                    break
                await asyncio.sleep(0.01)
        (row,) = (await ready(live))["drift"]["lanes"]["fast"]
        assert row["drawn"] == "greedy" and row["turns"] == 1 and (row["inside"] < 1.0) == drifts
        metrics = (await live.ask("GET", "/metrics")).body.decode()
    assert 'specguard_lane_scored_tokens_total{bucket="0-1k",drawn="greedy",lane="fast"}' in metrics


async def test_what_probing_found_is_in_every_incident() -> None:
    bad_call = Reply((Call("ls", {"command=ls": ""}),))
    tools = [{"type": "function", "function": {"name": "ls", "parameters": {"type": "object", "required": ["path"]}}}]
    async with guarded(Lane(bad_call, width=4, speculation="eagle3", kv="fp8", window=3000)) as (live, _, _):
        await live.post(CHAT, model="m", tools=tools)
        (record, *_) = await live.incidents()
        lanes = record.opened["capabilities"]["lanes"]
    assert lanes["fast"]["capabilities"]["kv"] == "fp8" and lanes["plain"]["capabilities"]["speculation"] == "none"


async def test_drafts_that_responses_tell_are_counted_for_the_lane_that_made_them() -> None:
    """llama.cpp without --metrics: its timings tell, also of a response that went on elsewhere."""
    fox = Reply((Text("the quick brown fox jumps over the lazy dog " * 60),))
    fast = Lane(fox, width=8, speculation="draft-mtp", accepts=0.0, window=3000)
    async with (
        Upstream("llamacpp", {"m": fast}, metrics=False).running() as one,
        Upstream("vllm", {"m": Lane(good, window=3000)}).running() as other,
    ):
        section = {"fast": {"url": one.base}, "plain": {"url": other.base}}
        backend: Any = LanesBackend(Lanes.model_validate(section))
        async with serving(backend, lanes=section) as live:
            for _ in range(2):
                assert (await live.post(CHAT, model="m")).status == 200
            lanes = (await ready(live))["lanes"]
            second, first = [record.opened for record in await live.incidents()]
    assert lanes["fast"]["acceptance"]["verdict"] == "dead" and lanes["fast"]["acceptance"]["drafted"] > 50
    assert lanes["plain"]["acceptance"] is None
    assert first["detector"].startswith("loop.") and second["detector"].startswith("loop.")
    assert "lane_acceptance" not in first["evidence"] and second["evidence"]["lane_acceptance"] == 0.0
