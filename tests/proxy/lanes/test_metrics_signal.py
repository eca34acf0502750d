"""Acceptance from metrics: dead, saturated, normal, unknown; restarts, missing engines, and a scripted server."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from proxy.lanes.asking import Asker
from proxy.lanes.exposition import Exposition
from proxy.lanes.metrics_signal import (
    ENOUGH,
    WINDOW_S,
    Acceptance,
    AcceptanceMeter,
    MetricsSignal,
    TimedAcceptance,
    Verdict,
    beside_loop,
)
from tests.proxy.lanes.test_exposition import vllm
from tests.proxy.lanes.upstreams_of import able, at
from tests.upstreams.server import Upstream


def read(*scrapes: tuple[float, str], now: float | None = None) -> Acceptance | None:
    meter = AcceptanceMeter()
    for time, text in scrapes:
        meter.take(time, Exposition.parse(text))
    return meter.read(scrapes[-1][0] if now is None else now)


@pytest.mark.parametrize(
    ("drafted", "accepted", "verdict"),
    [(ENOUGH, 0, "dead"), (ENOUGH, 1, "normal"), (200, 199, "saturated"), (200, 190, "normal"), (9000, 0, "dead")],
)
def test_two_sided(drafted: int, accepted: int, verdict: Verdict) -> None:
    found = read((0, vllm(7, 7)), (5, vllm(7 + drafted, 7 + accepted)))
    assert found is not None and found.verdict == verdict
    assert (found.drafted, found.accepted, found.seconds) == (drafted, accepted, 5)


def test_too_few_drafts_say_nothing() -> None:
    assert read((0, vllm(0, 0)), (5, vllm(ENOUGH - 1, 0))) is None
    assert read((0, vllm(500, 0))) is None


def test_nothing_is_told_where_nothing_is() -> None:
    assert read((0, "vllm:num_requests_running 1\n"), (5, "vllm:num_requests_running 1\n")) is None
    drafted = "vllm:spec_decode_num_draft_tokens_total"
    assert read((0, f"{drafted} 0\n"), (5, f"{drafted} 900\n")) is None  # accepted ones are not told


def test_a_restart_in_between_is_no_collapse() -> None:
    found = read((0, vllm(1000, 800)), (5, vllm(1100, 880)), (10, vllm(100, 80)))
    assert found is not None and (found.drafted, found.accepted) == (200, 160)


def test_only_the_window_counts() -> None:
    found = read((0, vllm(0, 0)), (5, vllm(1000, 1000)), (6 + WINDOW_S, vllm(1000 + ENOUGH, 1000)))
    assert found is not None and found.verdict == "dead"
    assert read((0, vllm(0, 0)), (5, vllm(1000, 1000)), now=6 + WINDOW_S) is None  # too old


def test_gauges_count_only_while_something_is_verified() -> None:
    def sglang(rate: float, calls: int) -> str:
        return f"sglang:spec_accept_rate {rate}\nsglang:spec_verify_calls_total {calls}\n"

    assert read((0, sglang(0.0, 0)), (5, sglang(0.0, 3))) is None
    found = read((0, sglang(0.5, 0)), (5, sglang(0.0, ENOUGH)))
    assert found is not None and found.verdict == "dead" and found.drafted is None
    assert read((0, "sglang:spec_accept_rate 0\n"), (5, "sglang:spec_accept_rate 0\n")) is None


def test_responses_that_tell_their_own_drafts() -> None:
    timed = TimedAcceptance()
    assert timed.read(0.0) is None
    for now, drafted, accepted in ((1.0, 30, 0), (2.0, 0, 0), (3.0, 5, 9), (4.0, 5, -1)):
        timed.take(now, drafted, accepted)
    assert timed.read(4.0) is None  # 30 of them
    timed.take(5.0, 20, 0)
    found = timed.read(5.0)
    assert found is not None and (found.verdict, found.drafted, found.seconds) == ("dead", 50, 4.0)
    assert timed.read(1.0 + WINDOW_S + 0.1) is None
    timed.take(40.0, 100, 99)
    found = timed.read(40.0)
    assert found is not None and (found.verdict, found.drafted) == ("saturated", 100)
    assert beside_loop(found)["lane_acceptance"] == 0.99 and beside_loop(None) == {}


async def say(up: Upstream) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Repeat the fox."}], "max_tokens": 400}
    async with aiohttp.ClientSession() as http, http.post(f"{up.base}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        await response.read()


@pytest.mark.parametrize(
    ("accepts", "verdict", "beside"), [(0.0, "dead", True), (1.0, "saturated", True), (0.5, "normal", False)]
)
@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
async def test_a_server_is_read(kind: Any, accepts: float, verdict: Verdict, beside: bool) -> None:
    changed: list[str] = []
    lane = able(width=5, speculation="mtp", accepts=accepts)
    async with Upstream(kind, {"m": lane}).running() as up, Asker(at(up)) as asker:
        signal = MetricsSignal(at(up), changed=lambda verdict, found: changed.append(verdict))
        await signal.scrape(asker)
        for _ in range(4):
            await say(up)
        await signal.scrape(asker)
        found = signal.acceptance
    assert found is not None and found.verdict == verdict
    assert bool(beside_loop(found)) == beside
    assert changed == ([] if verdict == "normal" else [verdict]) and signal.problem == ""


async def test_an_engine_that_does_not_answer_makes_the_sum_unknown() -> None:
    async with Upstream("vllm", {"m": able(width=5, speculation="mtp", accepts=0.0)}).running() as up:
        both = (f"{up.base}/metrics", "http://127.0.0.1:9/metrics")
        async with Asker(at(up, metrics_urls=both)) as asker:
            signal = MetricsSignal(asker.target)
            for _ in range(2):
                await signal.scrape(asker)
                await say(up)
    assert signal.acceptance is None and "127.0.0.1:9" in signal.problem


async def test_sums_with_and_without_an_engine_are_not_compared() -> None:
    """One engine misses a scrape: what it has drafted meanwhile is no sudden growth of the others."""
    async with (
        Upstream("vllm", {"m": able(width=5, speculation="mtp", accepts=0.0)}).running() as one,
        Upstream("vllm", {"m": able(width=5, speculation="mtp", accepts=1.0)}).running() as two,
    ):
        target = at(one, metrics_urls=(f"{one.base}/metrics", f"{two.base}/metrics"))
        async with Asker(target) as asker:
            signal = MetricsSignal(target)
            await signal.scrape(asker)
            for up in (one, one, two):
                await say(up)
            two.has_metrics = False
            await signal.scrape(asker)
            assert signal.acceptance is None and "404" in signal.problem
            two.has_metrics = True
            await signal.scrape(asker)
            assert signal.acceptance is None and signal.problem == ""
            await say(two)
            await say(two)
            await signal.scrape(asker)
            found = signal.acceptance
    assert found is not None and found.verdict == "saturated"
