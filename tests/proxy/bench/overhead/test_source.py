"""The scripted source says the same to everybody, word by word, in the order of its API."""

from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer

from proxy.bench.overhead.source import END, FRAMES, WORDS, application
from proxy.sse import EventReader


async def test_it_says_its_text() -> None:
    async with TestClient(TestServer(application(0.0))) as client:
        for body in (b"{}", b"x" * 100_000):
            response = await client.post("/v1/chat/completions", data=body)
            assert response.content_type == "text/event-stream"
            assert await response.read() == b"".join(FRAMES) + END


def test_a_word_is_a_frame() -> None:
    events = EventReader().feed(b"".join(FRAMES) + END)
    assert len(FRAMES) == len(WORDS) > 40
    assert events[-1].data == "[DONE]"
    assert len(set(WORDS)) > 0.7 * len(WORDS)  # prose, in which no detector finds a loop
