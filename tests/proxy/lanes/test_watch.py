"""What watches over lanes: who is distrusted, what a loop leads to, what canaries are told, and that all of it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from policies.modes import PLAIN, DecodeMode
from policies.trust import Served
from proxy.conversation import ChatRequest, Message
from proxy.incidents import Incident
from proxy.lanes.capabilities import LaneCapabilities
from proxy.lanes.meter import MeterSettings
from proxy.lanes.metrics_signal import MetricsSignal
from proxy.lanes.watch import ASK_AGAIN_S, LaneWatch, WatchSettings
from proxy.trust.keeper import TrustKeeper
from proxy.trust.store import TrustStore
from tests.proxy.lanes.upstreams_of import able
from tests.proxy.lanes.watched import FAST, Server, two_lanes
from tests.upstreams.lanes import Lane
from tests.upstreams.replies import Reply, Text

INCIDENT = replace(Incident(**{f.name: "" for f in fields(Incident)}), mode_before=str(FAST))  # type: ignore[arg-type]
REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),))
QUIET = WatchSettings(metrics_s=0, meter=MeterSettings(share=1.0, quiet_s=0.0))


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[TrustKeeper]:
    keeper = TrustKeeper(TrustStore(tmp_path / "trust.json"))
    keeper.serve(Served("f00d", "json", 8192), ("plain", str(FAST)))
    yield keeper
    keeper.close()


def watching(servers: Sequence[Server], keeper: TrustKeeper, **options: Any) -> LaneWatch:
    idle = asyncio.Event()
    idle.set()
    return LaneWatch(servers, keeper, idle, asyncio.Lock(), options.pop("settings", QUIET), **options)


def able_to(server: Server, **changes: Any) -> Server:
    """As if probing had found something else."""
    can = replace(server.probed.capabilities, **changes)
    return replace(server, probed=replace(server.probed, capabilities=can))


async def settled(watch: LaneWatch) -> None:
    """Until the questions that run have their answers."""
    names = {task.get_name(): task for task in watch._tasks}
    await asyncio.wait_for(asyncio.gather(*(t for name, t in names.items() if name.startswith("poison"))), 20)


async def test_a_known_bad_lane_starts_untrusted_and_a_sound_one_does_not(keeper: TrustKeeper) -> None:
    async with two_lanes() as (servers, _, _):
        for kv, buckets in (("fp8", 0), ("turboquant_k8v4", 3)):
            watch = watching((able_to(servers[0], kv=kv), servers[1]), keeper)
            watch.start(8192)
            assert len(keeper.records) == buckets
            assert all(record.state == "open" for record in keeper.records.values())
            shown = watch.plain()["lanes"]["fast"]
            assert any(row["untrusted"] for row in shown["known_bad"]) == bool(buckets)
            await watch.close()


async def test_a_plain_lane_that_drafts_is_told(keeper: TrustKeeper, capsys: pytest.CaptureFixture[str]) -> None:
    async with two_lanes() as (servers, _, _):
        watch = watching((servers[0], able_to(servers[1], speculation="mtp")), keeper)
        watch.start(8192)
        await watch.close()
    assert "lane.not_plain" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("detector", "says", "poisoned"),
    [
        ("loop.period", "!" * 99, True),
        ("stall.step", "!" * 99, True),
        ("loop.period", "A lighthouse warns ships.", False),
        ("tool.schema", "!" * 99, False),  # not asked: that is no sign of it
        ("loop.history", "!" * 99, False),
    ],
)
async def test_after_a_loop_the_server_is_asked(keeper: TrustKeeper, detector: str, says: str, poisoned: bool) -> None:
    async with two_lanes() as (servers, up, _):
        watch = watching(servers, keeper)
        up.lanes["m"] = Lane(Reply((Text(says),)))
        watch.opened(replace(INCIDENT, detector=detector))
        await settled(watch)
        await watch.close()
    states = [record.state for record in keeper.records.values()]
    assert states == (["open"] if poisoned else [])
    if poisoned:
        assert watch.plain()["lanes"]["fast"]["poisoned"]["state"] == "poisoned"


async def test_the_server_is_not_asked_again_and_again(keeper: TrustKeeper) -> None:
    times = iter((0.0, 1.0, ASK_AGAIN_S - 1, ASK_AGAIN_S))
    async with two_lanes() as (servers, up, _):
        watch = watching(servers, keeper, clock=lambda: next(times))
        before = len(up.chats)
        for _ in range(4):
            watch.opened(replace(INCIDENT, detector="loop.period"))
            await settled(watch)
        watch.opened(replace(INCIDENT, detector="loop.period", mode_before="ngram/full"))  # no lane of ours
        await watch.close()
        assert len(up.chats) - before == 2


async def test_a_poisoned_server_fails_a_canary_before_a_question_is_asked(keeper: TrustKeeper) -> None:
    async with two_lanes() as (servers, up, _):
        watch = watching(servers, keeper)
        assert await watch.unsound(FAST) == ""
        up.lanes["m"] = Lane(Reply((Text("////" * 30),)))
        assert "restart that server" in await watch.unsound(FAST)
        assert await watch.unsound(PLAIN) == "" and await watch.unsound(DecodeMode("ngram", "full")) == ""


async def test_the_plain_lane_is_one_by_its_name_not_by_its_mode(keeper: TrustKeeper) -> None:
    """Its own cache may be compressed."""
    packed = DecodeMode("none", "k8v8")
    async with two_lanes() as (servers, _, _):
        watch = watching((servers[0], replace(servers[1], mode=packed)), keeper)
        assert watch.sound == packed and watch.meter is not None
        assert watch.chooses(REQUEST, FAST) and not watch.chooses(REQUEST, packed)


async def test_of_a_single_lane_all_is_told_and_it_serves_all_the_same(keeper: TrustKeeper) -> None:
    async with two_lanes() as (servers, up, _):
        watch = watching((able_to(servers[0], kv="turboquant_k8v4"),), keeper)
        watch.start(8192)
        up.lanes["m"] = Lane(Reply((Text("!" * 99),)))
        watch.opened(replace(INCIDENT, detector="loop.period"))
        await settled(watch)
        await watch.close()
    assert not keeper.records and watch.sound == FAST
    assert watch.plain()["lanes"]["fast"]["poisoned"]["state"] == "poisoned"


@pytest.mark.parametrize(("hits", "tells"), [("usage", True), ("timings", True), ("metrics", False), ("none", False)])
async def test_whose_hits_can_be_believed(keeper: TrustKeeper, hits: str, tells: bool) -> None:
    async with two_lanes() as (servers, _, _):
        watch = watching((able_to(servers[0], cache_hits=hits), servers[1]), keeper)
    assert watch.tells_hits(FAST) == tells and not watch.tells_hits(DecodeMode("ngram", "full"))


async def test_the_meter_runs_where_it_can_and_says_why_not(keeper: TrustKeeper) -> None:
    async with two_lanes() as (servers, _, _):
        fast, plain = servers
        mute = able_to(fast, prompt_ids=False)
        for lanes, off in (
            ((fast,), "no plain lane"),
            ((fast, able_to(plain, prompt_logprobs=False)), "scores no given tokens"),
            ((mute, plain), "tells the token ids"),
        ):
            watch = watching(lanes, keeper)
            assert watch.meter is None and off in watch.plain()["drift"]["off"]
        assert watching(servers, keeper, settings=WatchSettings(meter=MeterSettings(share=0))).meter is None
        watch = watching(servers, keeper)
        assert watch.chooses(REQUEST, FAST)
        assert not watch.chooses(REQUEST, PLAIN)  # not against itself
        watch.finished(REQUEST, FAST, [1], [2])
        assert watch.meter is not None and [turn.lane for turn in watch.meter._turns] == ["fast"]


async def test_turns_of_the_fast_lane_become_a_drift_figure(keeper: TrustKeeper) -> None:
    async with two_lanes() as (servers, _, _):
        watch = watching(servers, keeper)
        watch.start(8192)
        watch.finished(REQUEST, FAST, [1, 2, 3], [4, 5])
        async with asyncio.timeout(20):
            while True:
                if watch.figures:
                    break
                await asyncio.sleep(0)
        await watch.make_way()
        await watch.close()
    (row,) = watch.plain()["drift"]["lanes"]["fast"]
    assert (row["turns"], row["tokens"]) == (1, 2)


async def test_metrics_are_scraped_and_stand_beside_a_loop(
    keeper: TrustKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    scraped = asyncio.Event()
    scrape = MetricsSignal.scrape

    async def noticed(self: MetricsSignal, asker: Any) -> None:
        await scrape(self, asker)
        scraped.set()

    monkeypatch.setattr(MetricsSignal, "scrape", noticed)
    dead: list[str] = []
    async with two_lanes(able(width=4, speculation="eagle3", kv="fp8", accepts=0.0)) as (servers, up, _):
        watch = watching(
            servers, keeper, settings=WatchSettings(0.001), drafts_dead=lambda lane, found: dead.append(lane)
        )
        watch.start(8192)
        async with asyncio.timeout(20):
            await scraped.wait()
            up.counters["m"].drafted += 500
            while True:
                if dead:
                    break
                await asyncio.sleep(0.001)
        beside = watch.beside_loop(FAST)
        assert (beside["lane_acceptance"], beside["lane_drafted"]) == (0.0, 500)
        assert watch.beside_loop(DecodeMode("ngram", "full")) == {}
        await watch.close()
        assert not watch._tasks
    assert watch.plain()["lanes"]["fast"]["acceptance"]["drafted"] == 500


async def test_what_responses_tell_of_drafts_counts_where_metrics_do_not(keeper: TrustKeeper) -> None:
    async with two_lanes() as (servers, _, _):
        watch = watching(servers, keeper, clock=lambda: 5.0)
    assert watch.acceptance("fast") is None and watch.beside_loop(FAST) == {}
    watch.drafted(FAST, 400, 400)
    watch.drafted(DecodeMode("ngram", "full"), 400, 0)  # no lane of ours
    assert watch.beside_loop(FAST)["lane_acceptance"] == 1.0
    assert watch.plain()["lanes"]["fast"]["acceptance"]["verdict"] == "saturated"


def test_capabilities_of_nothing_speculate_nothing() -> None:
    assert not LaneCapabilities().speculates
