"""A lane's client against servers that answer well, badly, slowly, or for ever."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.lanes.chunks import Chunk
from proxy.lanes.settings import Lane, Lanes
from proxy.lanes.upstream import Upstream, UpstreamError
from tests.proxy.lanes.raw import DONE, HEAD, Asked, Raw, data, event, raw

SAID = event(delta={"content": "hé"}) + event(finish_reason="stop") + DONE
LIMITS = Lanes(fast=Lane(url="http://127.0.0.1:1"), retries=1)


@asynccontextmanager
async def asking(
    answer: Callable[[Asked], Awaitable[None]], limits: Lanes = LIMITS, **lane: object
) -> AsyncIterator[tuple[Upstream, Raw]]:
    async with raw(answer) as server:
        settings = Lane.model_validate({"url": server.url, **lane})
        upstream = Upstream("fast", settings, limits, {"KEY": "s3cret"})
        try:
            yield upstream, server
        finally:
            await upstream.close()


async def read(upstream: Upstream) -> list[Chunk]:
    stream = await upstream.stream({"messages": []})
    chunks = []
    try:
        while (chunk := await stream.next()) is not None:
            chunks.append(chunk)
    finally:
        stream.close()
    return chunks


def sends(*pieces: bytes) -> Callable[[Asked], Awaitable[None]]:
    async def answer(asked: Asked) -> None:
        for piece in pieces:
            await asked.send(piece)
            await asyncio.sleep(0)

    return answer


async def failure_of(pieces: bytes, limits: Lanes = LIMITS) -> UpstreamError:
    async with asking(sends(pieces), limits) as (upstream, _):
        with pytest.raises(UpstreamError) as caught:
            await read(upstream)
    return caught.value


async def test_a_stream_is_read_to_its_end() -> None:
    async with asking(sends(HEAD + SAID)) as (upstream, _):
        assert await read(upstream) == [Chunk(text="hé"), Chunk(finish="stop")]


async def test_an_end_without_done_is_one_if_a_finish_reason_came() -> None:
    async with asking(sends(HEAD + SAID.removesuffix(DONE))) as (upstream, _):
        assert [chunk.finish for chunk in await read(upstream)] == [None, "stop"]


async def test_every_cut_of_the_bytes_gives_the_same() -> None:
    async with asking(sends(HEAD, *(SAID[i : i + 1] for i in range(len(SAID))))) as (upstream, _):
        assert "".join(chunk.text for chunk in await read(upstream)) == "hé"


async def test_reads_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """To set one costs more than to read an event."""
    loop, timers = asyncio.get_running_loop(), list[float]()
    real = loop.call_at

    def call_at(when: float, *rest: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return real(when, *rest, **more)

    async def answer(asked: Asked) -> None:
        await asked.send(HEAD)
        for _ in range(50):
            await asked.send(event(delta={"content": "a"}))
            await asyncio.sleep(0)
        await asked.send(SAID)

    async with asking(answer) as (upstream, _):
        stream = await upstream.stream({})
        monkeypatch.setattr(loop, "call_at", call_at)
        while await stream.next() is not None:
            pass
    assert len(timers) <= 3  # until the first event, between the others, and for the end of the body


async def test_silence_without_a_byte_is_noticed() -> None:
    async def answer(asked: Asked) -> None:
        await asked.send(HEAD + event(delta={"content": "a"}))
        await asked.gone.wait()

    async with asking(answer, Lanes(between_s=0.2)) as (upstream, server):
        with pytest.raises(UpstreamError, match="has sent nothing") as caught:
            await asyncio.wait_for(read(upstream), 10)
        assert caught.value.failure == "stalled"
        await asyncio.wait_for(server.asked[0].gone.wait(), 10)


async def test_a_compressed_stream_is_read() -> None:
    head = HEAD.replace(b"connection", b"content-encoding: gzip\r\nconnection")
    async with asking(sends(head + gzip.compress(SAID))) as (upstream, server):
        assert "".join(chunk.text for chunk in await read(upstream)) == "hé"
        assert server.asked[0].headers["accept-encoding"] == "identity"


async def test_what_is_no_gzip_has_died() -> None:
    head = HEAD.replace(b"connection", b"content-encoding: gzip\r\nconnection")
    assert (await failure_of(head + b"\x1f\x8b" + SAID)).failure == "died"


async def test_the_end_of_the_body_before_that_of_the_response_is_a_death() -> None:
    error = await failure_of(HEAD + event(delta={"content": "a"}))
    assert error.failure == "died"
    assert "before the response was complete" in str(error)


async def test_done_before_a_finish_reason_is_a_death() -> None:
    assert (await failure_of(HEAD + event(delta={"content": "a"}) + DONE)).failure == "died"


async def test_a_chunked_body_that_breaks_off_has_died() -> None:
    head = HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
    assert (await failure_of(head + b"5\r\ndata:")).failure == "died"


@pytest.mark.parametrize("sent", [b"data: {\n\n", b"data: 7\n\n", b'data: "\xff"\n\n', b'data: {"a": "\\ud800"}\n\n'])
async def test_what_is_no_chunk_is_refused(sent: bytes) -> None:
    assert (await failure_of(HEAD + sent)).failure == "malformed"


async def test_an_answer_that_is_no_stream_is_refused() -> None:
    error = await failure_of(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
    assert error.failure == "malformed"
    assert "application/json" in str(error)


async def test_a_refusal_says_what_the_server_says_shortened() -> None:
    body = b'{"error": {"message": "' + b"too long " * 1000 + b'"}}'
    head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % len(body)
    error = await failure_of(head + body)
    assert (error.failure, error.status) == ("refused", 400)
    assert "too long" in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize("status", [101, 204, 205, 301, 304, 418])
async def test_a_status_without_a_stream_is_refused(status: int) -> None:
    error = await failure_of(b"HTTP/1.1 %d So\r\ncontent-length: 0\r\n\r\n" % status)
    assert (error.failure, error.status) == ("refused", status)


async def test_a_key_that_the_server_repeats_is_not_told_on() -> None:
    body = b'{"error": {"message": "there is no key s3cret"}}'
    head = b"HTTP/1.1 401 No\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with asking(sends(head + body), key_env="KEY") as (upstream, _):
        with pytest.raises(UpstreamError) as caught:
            await read(upstream)
    assert "there is no key [hidden]" in str(caught.value)
    async with asking(sends(HEAD + data({"error": "s3cret is wrong"})), key_env="KEY") as (upstream, _):
        stream = await upstream.stream({})
        chunk = await stream.next()
        assert chunk is not None and chunk.error == "[hidden] is wrong"
        stream.close()


async def test_a_key_that_is_no_header_is_told_and_not_shown() -> None:
    async with raw(sends(HEAD)) as server:
        upstream = Upstream("fast", Lane(url=server.url, key_env="KEY"), LIMITS, {"KEY": "s3\r\ncret"})
        with pytest.raises(UpstreamError, match="its key") as caught:
            await upstream.stream({})
        assert "cret" not in str(caught.value)
        assert server.asked == []
        await upstream.close()


@pytest.mark.parametrize(("status", "tries"), [(500, 1), (503, 2), (502, 2), (429, 1), (400, 1)])
async def test_only_what_passes_is_asked_again_and_not_for_ever(status: int, tries: int) -> None:
    async with asking(sends(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % status)) as (upstream, server):
        with pytest.raises(UpstreamError) as caught:
            await read(upstream)
        assert (caught.value.status, len(server.asked)) == (status, tries)


async def test_a_second_try_may_do() -> None:
    async def answer(asked: Asked) -> None:
        first = len(server.asked) == 1
        await asked.send(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n" if first else HEAD + SAID)

    async with asking(answer) as (upstream, server):
        assert len(await read(upstream)) == 2


async def test_nothing_is_asked_again_once_a_stream_began() -> None:
    async with asking(sends(HEAD)) as (upstream, server):
        with pytest.raises(UpstreamError):
            await read(upstream)
        assert len(server.asked) == 1


async def test_nobody_listens() -> None:
    upstream = Upstream("plain", Lane(url="http://127.0.0.1:1"), LIMITS, {})
    with pytest.raises(UpstreamError) as caught:
        await upstream.stream({})
    assert caught.value.failure == "unreachable"
    assert "plain lane" in str(caught.value)
    await upstream.close()


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    head = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
    assert (await failure_of(head)).status == 302


async def test_silence_between_events_ends_it_and_keepalives_are_none() -> None:
    limits = LIMITS.model_copy(update={"between_s": 0.2})

    async def answer(asked: Asked) -> None:
        await asked.send(HEAD + event(delta={"content": "a"}))
        while not asked.gone.is_set():
            await asked.send(b": ping\n\n")
            await asyncio.sleep(0.01)

    async with asking(answer, limits) as (upstream, server):
        with pytest.raises(UpstreamError) as caught:
            await read(upstream)
        assert caught.value.failure == "stalled"
        await asyncio.wait_for(server.asked[0].gone.wait(), 10)


async def test_a_stream_without_end_is_cut() -> None:
    limits = LIMITS.model_copy(update={"total_s": 0.3})

    async def answer(asked: Asked) -> None:
        await asked.send(HEAD)
        while not asked.gone.is_set():
            await asked.send(event(delta={"content": "a"}))
            await asyncio.sleep(0.001)

    async with asking(answer, limits) as (upstream, server):
        with pytest.raises(UpstreamError) as caught:
            await read(upstream)
        assert caught.value.failure == "endless"
        await asyncio.wait_for(server.asked[0].gone.wait(), 10)


@pytest.mark.parametrize("sent", [b"data: " + b"x" * 9000, b": comment\n" * 1000, b"data: x\n" * 2000])
async def test_an_event_may_not_grow_for_ever(sent: bytes) -> None:
    limits = LIMITS.model_copy(update={"event_bytes": 4096})
    assert (await failure_of(HEAD + sent, limits)).failure == "too_large"


@pytest.mark.parametrize("nothing", [b"\n", b": alive\n\n", b"event: x\n\n"])
async def test_bytes_that_make_no_event_are_bounded(nothing: bytes) -> None:
    """However well they were compressed."""
    head = HEAD.replace(b"connection", b"content-encoding: gzip\r\nconnection")
    flood = gzip.compress(nothing * (1 << 18) + SAID)
    error = await failure_of(head + flood, LIMITS.model_copy(update={"event_bytes": 1 << 17}))
    assert error.failure == "too_large"
    async with asking(sends(head + flood)) as (upstream, _):
        assert len(await read(upstream)) == 2


async def test_the_ids_of_a_long_prompt_are_no_too_large_event() -> None:
    first = data({"prompt_token_ids": [151_643] * 260_000, "choices": [{"delta": {"role": "assistant"}}]})
    async with asking(sends(HEAD + first + SAID)) as (upstream, _):
        assert (await read(upstream))[0].prompt_tokens == 260_000


async def test_many_tiny_events_are_no_large_one() -> None:
    limits = LIMITS.model_copy(update={"event_bytes": 4096})
    pieces = [event(delta={"content": "a"}) * 10 for _ in range(1000)]
    async with asking(sends(HEAD, *pieces, SAID), limits) as (upstream, _):
        assert len(await read(upstream)) == 10_002


async def test_closing_closes_the_connection() -> None:
    async def answer(asked: Asked) -> None:
        await asked.send(HEAD + event(delta={"content": "a"}))
        await asyncio.wait_for(asked.gone.wait(), 10)

    async with asking(answer) as (upstream, server):
        stream = await upstream.stream({})
        await stream.next()
        stream.close()
        assert await stream.next() is None
        await asyncio.wait_for(server.asked[0].gone.wait(), 10)


async def test_key_headers_and_body_reach_the_server_and_no_cookie_stays() -> None:
    head = HEAD.replace(b"connection", b"set-cookie: a=b\r\nconnection")
    async with asking(sends(head + SAID), key_env="KEY", headers=["X-Team: agents"]) as (upstream, server):
        name = server.url.replace("127.0.0.1", "localhost")  # of an address no client would keep one anyway
        upstream.lane = upstream.lane.model_copy(update={"url": name})
        await read(upstream)
        stream = await upstream.stream({"n": 1}, {"x-session-id": "s"})
        stream.close()
        headers = server.asked[1].headers
        assert headers["authorization"] == "Bearer s3cret"
        assert (headers["x-team"], headers["x-session-id"]) == ("agents", "s")
        assert "cookie" not in headers
        assert server.asked[1].body == {"n": 1}


async def test_an_error_object_is_a_chunk_of_its_own() -> None:
    sent = data({"error": {"code": 500, "message": "CUDA error"}}) + DONE
    async with asking(sends(HEAD + sent)) as (upstream, _):
        stream = await upstream.stream({})
        assert await stream.next() == Chunk(error="CUDA error", error_status=500)
        stream.close()


async def test_small_questions_are_answered_or_refused() -> None:
    body = b'{"count": 5}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with asking(sends(head + body)) as (upstream, _):
        assert await upstream.ask("/tokenize", {}, 5.0) == {"count": 5}
    async with asking(sends(b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")) as (upstream, _):
        with pytest.raises(UpstreamError) as caught:
            await upstream.ask("/tokenize", {}, 5.0)
        assert caught.value.status == 404


async def test_a_connection_whose_stream_was_read_to_its_end_is_used_again() -> None:
    head = HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
    peers = []

    async def answer(asked: Asked) -> None:
        peers.append(asked.write.get_extra_info("peername"))
        await asked.send(head + b"%x\r\n" % len(SAID) + SAID + b"\r\n0\r\n\r\n")

    async with asking(answer) as (upstream, _):
        for _ in range(3):
            assert len(await read(upstream)) == 2
    assert len(set(peers)) == 1
