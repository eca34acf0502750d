"""A lane that never ends, and a client that leaves. What is bounded otherwise: `tests/test_lane_defects.py`."""

from __future__ import annotations

from tests.proxy.lanes.pool import pool, two_lanes
from tests.proxy.lanes.told import body
from tests.proxy.live import CHAT
from tests.upstreams.all_defects import DEFECTS


async def test_a_client_that_leaves_ends_an_endless_lane() -> None:
    upstream = two_lanes("vllm", DEFECTS["stream_without_end"].lane())
    async with pool(upstream) as running:
        async with running.http.post(running.base + CHAT, json=body(CHAT)) as response:
            await response.content.readany()
        assert await upstream.chats[0].end() == "left"
