"""The client against servers that stream well and badly, each on a port of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from proxy.bench_pack.client import ChatClient, Drafts, loop_in

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
