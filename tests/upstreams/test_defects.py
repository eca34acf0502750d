"""Every defect strikes: what is sent differs from the sound response, in every dialect that it is
for; a client that leaves ends the worst of them.
"""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest

from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.defects import Defect
from tests.upstreams.dialects import Kind
from tests.upstreams.lanes import Lane
from tests.upstreams.server import Upstream

CASES = [pytest.param(d, kind, id=f"{name}-{kind}") for name, d in DEFECTS.items() for kind in d.dialects]
READ = 1 << 16
RANDOM = re.compile(rb"[0-9a-f]{24,32}")
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "go"}],
    "stream": True,
    "return_token_ids": True,
    "stream_options": {"include_usage": True},
}


async def answer(lane: Lane, kind: Kind) -> tuple[int, dict[str, str], bytes, int, bool]:
    """Status, headers, the first bytes without what is drawn, in how many frames, and whether the connection broke."""
    async with Upstream(kind, {"m": lane}).running() as up, aiohttp.ClientSession(auto_decompress=False) as http:
        got, broken = b"", False
        try:
            async with http.post(f"{up.base}/v1/chat/completions", json=BODY) as response:
                status, headers = response.status, dict(response.headers)
                while len(got) < READ and (more := await response.content.readany()):
                    got += more
        except aiohttp.ClientError:
            broken = True
            if not got:
                return 0, {}, b"", 0, True
        headers.pop("Date")
        return status, headers, RANDOM.sub(b"", got)[: READ // 2], up.chats[0].frames, broken


@pytest.mark.parametrize(("defect", "kind"), CASES)
async def test_it_strikes(defect: Defect, kind: Kind) -> None:
    lane = defect.lane()
    spoilt = await answer(lane, kind)
    assert spoilt[:2] == (await answer(lane, kind))[:2]
    lane.strikes = lambda asked: False
    sound = await answer(lane, kind)
    assert spoilt != sound


async def test_the_worst_end_with_the_client() -> None:
    for name in ("stream_without_end", "line_without_end"):
        async with Upstream("vllm", {"m": DEFECTS[name].lane()}).running() as up, aiohttp.ClientSession() as http:
            response = await http.post(f"{up.base}/v1/chat/completions", json=BODY)
            await response.content.readany()
            response.close()
            assert await up.chats[0].end() == "left"
