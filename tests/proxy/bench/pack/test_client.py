"""The client against servers that stream well and badly, each on a port of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from proxy.bench.pack.client import ChatClient, Drafts, loop_in
from proxy.bench.pack.figures import Trial, figures

TOOL = {"type": "function", "function": {"name": "ls", "parameters": {"type": "object", "required": ["path"]}}}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "hello"}}]}
DONE = "[DONE]"


@asynccontextmanager
async def server(*frames: Any, status: int = 200) -> AsyncIterator[ChatClient]:
    async def chat(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["stream_options"] == {"include_usage": True}
        if status != 200:
            return web.json_response(frames[0], status=status)
        response = web.StreamResponse()
        await response.prepare(request)
        for frame in frames:
            data = frame if isinstance(frame, str) else json.dumps(frame)
            await response.write(f"data: {data}\n\n".encode())
        return response

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as http:
            yield ChatClient(http, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/", "key", "m")
    finally:
        await runner.cleanup()


def call(*pieces: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": list(pieces)}}]}


async def test_a_server_that_tells_nothing_is_timed_from_here() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    async with server(CHUNK, {"choices": [], "usage": usage}, DONE) as client:
        assert await client.models() == ["m"] and await client.metrics() == ""
        answer = await client.ask([], [])
    assert (answer.text, answer.failed, answer.told) == ("hello", "", False)
    assert (answer.prompt, answer.computed, answer.tokens) == (10, 6, 3)
    assert answer.drafts is None and answer.first_s is not None
    assert answer.prompt_s + answer.decode_s == answer.seconds


async def test_llama_timings_are_read() -> None:
    timings = {"prompt_n": 8, "prompt_ms": 4.0, "predicted_n": 2, "predicted_ms": 10.0, "draft_n": 5}
    async with server(CHUNK, {"choices": [], "timings": timings | {"draft_n_accepted": 4}}, DONE) as client:
        answer = await client.ask([], [])
    assert (answer.computed, answer.prompt_s, answer.tokens, answer.decode_s) == (8, 0.004, 2, 0.01)
    assert answer.drafts == Drafts(5, 4) and answer.told


async def test_vllm_numbers_of_a_request_are_read() -> None:
    told = {"speculative_decoding": {"num_draft_tokens": 9, "num_accepted_draft_tokens": 6}}
    async with server(CHUNK, {"choices": [], "metrics": told}, DONE) as client:
        assert (await client.ask([], [])).drafts == Drafts(9, 6)


async def test_calls_in_pieces_are_judged() -> None:
    first = {"index": 0, "id": "a", "function": {"name": "ls", "arguments": '{"pa'}}
    rest = {"index": 0, "function": {"arguments": 'th": "x"}'}}
    others = [
        {"index": 1, "id": "b", "function": {"name": "ls", "arguments": "{}"}},
        {"index": 2, "id": "c", "function": {"name": "rm", "arguments": "{}"}},
        {"index": 3, "id": "d", "function": {"name": "ls", "arguments": "{"}},
    ]
    async with server(call(first), call(rest), call(*others), DONE) as client:
        answer = await client.ask([], [TOOL])
    assert answer.calls[0].arguments == '{"path": "x"}'
    assert [each.problem.partition(":")[0] for each in answer.calls] == ["", "tool.schema", "tool.unknown", "tool.json"]


async def test_failures_are_answers() -> None:
    refusal = {"error": {"message": "no such model"}}
    async with server(refusal, status=404) as client:
        assert (await client.ask([], [])).failed == "status 404: no such model"
    async with server(CHUNK, {"error": {"message": "it broke"}}) as client:
        answer = await client.ask([], [])
        assert (answer.failed, answer.text) == ("it broke", "hello")
    async with server(CHUNK) as client:
        assert (await client.ask([], [])).failed == "the stream ended before the response did"
    async with server("nonsense") as client:
        assert "no JSON" in (await client.ask([], [])).failed
    async with aiohttp.ClientSession() as http:
        assert "Connect" in (await ChatClient(http, "http://127.0.0.1:9").ask([], [])).failed


async def test_loops_in_what_was_received() -> None:
    async with server({"choices": [{"delta": {"content": "round and round it goes. " * 60}}]}, DONE) as client:
        assert (await client.ask([], [])).loop == "loop.bytes"
    assert loop_in("def f(a):\n    return a\n\n\ndef g(b):\n    return b + 1\n") == ""


async def test_same() -> None:
    async with server(CHUNK, DONE) as client:
        one, other = await client.ask([], []), await client.ask([], [])
    async with server(CHUNK, CHUNK, DONE) as client:
        third = await client.ask([], [])
    assert one.same(other) and not one.same(third)


def told(**parts: Any) -> dict[str, Any]:
    return {"choices": [], **parts}


NONSENSE: dict[str, Any] = {
    "a list": [1],
    "null": "null",
    "deep": "[" * 100_000,
    "choices": {"choices": "ab"},
    "a choice": {"choices": [{"delta": [1]}]},
    "content in parts": {"choices": [{"delta": {"content": [{"text": "a"}]}}]},
    "calls": {"choices": [{"delta": {"tool_calls": "ab"}}]},
    "an index": call({"index": [1]}),
    "arguments": call({"index": 0, "function": {"name": "ls", "arguments": {"path": "a"}}}),
    "usage": told(usage=[1]),
    "words for numbers": told(usage={"prompt_tokens": "many"}),
    "endless": told(usage={"prompt_tokens": float("inf")}),
    "huge": told(usage={"completion_tokens": 10**400}),
    "less than nothing": told(usage={"completion_tokens": -1}),
    "no number": told(timings={"predicted_n": 3, "predicted_ms": float("nan"), "prompt_n": 1, "prompt_ms": 1}),
    "half of the timings": told(timings={"predicted_n": 3}),
    "more kept than drafted": told(timings={"draft_n": 3, "draft_n_accepted": 9}),
    "positions": told(timings={"draft_n": 3}, specguard={"drafts_by_position": [[1, 2]]}),
    "incidents": told(specguard={"incidents": [{}]}),
    "ids": told(specguard={"token_ids": 5}),
    "own": told(specguard=[1]),
    "metrics": told(metrics=[1]),
    "an error of halves": {"error": {"message": "\ud800\x1b[31m"}},
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_what_is_no_answer_is_a_failure(what: str) -> None:
    """Whatever it is, figures can be made of it and written down."""
    async with server(NONSENSE[what], DONE) as client:
        answer = await client.ask([], [TOOL])
    assert answer.failed and answer.failed.isprintable()
    made = figures("served", "w", [Trial("t", [answer], 1.0)])
    assert made.failures == 1 and orjson.dumps(made.plain())


async def test_no_error_is_none() -> None:
    async with server(CHUNK | {"error": None}, DONE) as client:
        assert (await client.ask([], [])).failed == ""


@asynccontextmanager
async def answering(handler: Any) -> AsyncIterator[ChatClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as http:
            yield ChatClient(http, f"http://127.0.0.1:{runner.addresses[0][1]}", "key", "m")
    finally:
        await runner.cleanup()


async def test_prompts_follow_no_redirect() -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.path)
        if request.path == "/elsewhere":
            return web.json_response({"data": [{"id": "other"}]})
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with answering(handler) as client:
        assert (await client.ask([], [])).failed.startswith("status 307")
        with pytest.raises(ValueError, match="status 307"):
            await client.models()
        assert await client.metrics() == ""
    assert "/elsewhere" not in seen


async def test_what_never_stops_is_read_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.bench.pack.client.MOST_BYTES", 1 << 20)
    sent = {"bytes": 0}

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while sent["bytes"] < 64 << 20:  # without a bound all of it would be read
            await response.write(b": " + b"x" * 65534)
            sent["bytes"] += 65536
        return response

    async with answering(handler) as client:
        assert (await client.ask([], [])).failed == "the response is longer than 1 MiB"
        assert len(await client.metrics()) == 1 << 20
    assert sent["bytes"] < 32 << 20


async def test_who_does_not_stream_is_named() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": "hello"}}]})

    async with answering(handler) as client:
        assert (await client.ask([], [])).failed == "it does not stream: the content type is application/json"


async def test_bytes_that_are_no_text_are_a_failure() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=500, body=b"\xff\xfe\x1b", headers={"content-type": "text/plain; charset=utf-8"})

    async with answering(handler) as client:
        failed = (await client.ask([], [])).failed
    assert failed.startswith("status 500") and failed.isprintable()
