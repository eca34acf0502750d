"""Lanes that send a hundred thousand of something, or never end: bounded, clear, and cancelled."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.lanes.pool import pool, two_lanes
from tests.proxy.lanes.told import body, told
from tests.proxy.live import CHAT
from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.dialects import Kind
from tests.upstreams.lanes import Lane

SLOW = [name for name, defect in DEFECTS.items() if defect.slow]


@pytest.mark.parametrize("name", SLOW)
async def test_it_is_bounded(name: str) -> None:
    """The limits are short here, so that the test is; what is held to them is the same."""
    defect = DEFECTS[name]
    kind: Kind = defect.dialects[0]
    upstream = two_lanes(kind, defect.lane(), Lane(defect.sound))
    limits = {"first_s": 3.0, "between_s": 1.0, "total_s": 3.0, "event_bytes": 1 << 20}
    async with pool(upstream, lanes=limits) as running:
        async with asyncio.timeout(90):
            got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert got.error or got.end
        assert await upstream.of("fast")[0].end() in ("left", "finished", "broken")
        assert await running.incidents()
        assert all(call == ("ls", {"path": "src"}) for call in got.calls)


async def test_a_client_that_leaves_ends_an_endless_lane() -> None:
    upstream = two_lanes("vllm", DEFECTS["stream_without_end"].lane())
    async with pool(upstream) as running:
        async with running.http.post(running.base + CHAT, json=body(CHAT)) as response:
            await response.content.readany()
        assert await upstream.chats[0].end() == "left"
