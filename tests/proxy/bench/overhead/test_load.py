"""What the clients count: whole streams, first words and gaps; a broken stream spoils the measurement."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.bench.overhead.load import BrokenStream, quantiles, read_streams
from proxy.bench.overhead.source import END, FRAMES, WORDS, application


async def test_streams_are_read_to_their_end() -> None:
    async with TestServer(application(0.001)) as server:
        seen = await read_streams(str(server.make_url("")).rstrip("/"), b"{}", 4, 0.1, len(WORDS), seed=1)
    assert len(seen.first) >= 4
    assert len(seen.gaps) == len(seen.first) * (len(WORDS) - 1)
    assert min(*seen.first, *seen.gaps) >= 0


@pytest.mark.parametrize("body", [b"".join(FRAMES), b"".join(FRAMES[1:]) + END, b'data: {"error":{}}\n\n'])
async def test_a_broken_stream_is_not_counted(body: bytes) -> None:
    async def answer(http: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    async with TestServer(app) as server:
        with pytest.raises(BrokenStream, match="words"):
            await read_streams(str(server.make_url("")).rstrip("/"), b"{}", 1, 0.1, len(WORDS), seed=1)
        with pytest.raises(BrokenStream, match="status 404"):
            await read_streams(str(server.make_url("/x")), b"{}", 1, 0.1, len(WORDS), seed=1)


def test_quantiles_are_of_the_nearest_rank() -> None:
    assert quantiles([3.0, 1.0, 2.0]) == (2.0, 3.0, 3.0)
    assert quantiles([float(n) for n in range(1, 101)]) == (50.0, 90.0, 99.0)
    assert quantiles([7.0]) == (7.0, 7.0, 7.0)
