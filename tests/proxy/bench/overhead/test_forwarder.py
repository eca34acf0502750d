"""The bare hop passes on what comes, unchanged."""

from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer

from proxy.bench.overhead import forwarder
from proxy.bench.overhead.source import END, FRAMES, application


async def test_what_comes_is_passed_on() -> None:
    async with TestServer(application(0.0)) as source:
        app = forwarder.application(str(source.make_url("")).rstrip("/"))
        async with TestClient(TestServer(app)) as client:
            response = await client.post("/v1/chat/completions", data=b"x" * 100_000)
            assert response.content_type == "text/event-stream"
            assert await response.read() == b"".join(FRAMES) + END
