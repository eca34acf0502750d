"""A server that was begun anew is noticed, one that goes on is not."""

from __future__ import annotations

import pytest

from proxy.lanes.asking import Asker, Unanswered
from proxy.lanes.restarts import Restarts
from tests.proxy.lanes.upstreams_of import able, at
from tests.upstreams.dialects import KINDS, Kind
from tests.upstreams.server import Upstream


def watched(upstream: Upstream, told: list[str], away: bool = False) -> Restarts:
    async def changed(why: str) -> None:
        told.append(why)

    return Restarts(at(upstream), changed, away=away)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_goes_on_is_not_told_of(kind: Kind) -> None:
    told: list[str] = []
    async with Upstream(kind, {"m": able()}).running() as upstream, Asker(at(upstream)) as asker:
        restarts = watched(upstream, told)
        for requests in (0, 3, 5):
            upstream.counters["m"].drafted = upstream.counters["m"].cached_tokens = requests
            await restarts.look(asker)
    assert (told, restarts.away) == ([], False)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_another_version_is_another_server(kind: Kind) -> None:
    told: list[str] = []
    async with Upstream(kind, {"m": able()}).running() as upstream, Asker(at(upstream)) as asker:
        restarts = watched(upstream, told)
        for version in ("1", "2", "2"):
            upstream.version = version
            await restarts.look(asker)
    assert told == ["it tells another version or other models"]


async def test_counters_that_begin_anew() -> None:
    told: list[str] = []
    lane = able(width=4, speculation="eagle3")
    async with Upstream("vllm", {"m": lane}).running() as upstream, Asker(at(upstream)) as asker:
        restarts = watched(upstream, told)
        for drafted in (500, 700, 20, 30):
            upstream.counters["m"].drafted = drafted
            await restarts.look(asker)
    assert told == ["its counters were begun anew"]


async def test_a_server_that_was_away() -> None:
    told: list[str] = []
    upstream = Upstream("vllm", {"m": able()})
    async with upstream.running():
        target, port = at(upstream), int(upstream.base.rsplit(":", 1)[1])
        async with Asker(target) as asker:
            restarts = watched(upstream, told)
            await restarts.look(asker)
    async with Asker(target) as asker:
        await restarts.look(asker)
        await restarts.look(asker)
        assert restarts.away and told == []
        async with upstream.running(port):
            await restarts.look(asker)
            await restarts.look(asker)
    assert (restarts.away, told) == (False, ["it was away"])


async def test_one_that_cannot_be_asked_yet_stays_away_until_it_can() -> None:
    asked = 0

    async def changed(_: str) -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise Unanswered("it still loads")

    async with Upstream("vllm", {"m": able()}).running() as upstream, Asker(at(upstream)) as asker:
        restarts = Restarts(at(upstream), changed, away=True)
        seen = []
        for _ in range(4):
            await restarts.look(asker)
            seen.append(restarts.away)
    assert (seen, asked) == ([True, True, False, False], 3)
