"""The relay takes its text from the source by HTTP and hands it on word by word; it is no more than that."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from policies.modes import PLAIN
from proxy.backends.errors import BackendError
from proxy.bench.overhead.bodies import SIZES, body_of
from proxy.bench.overhead.relay import RelayBackend
from proxy.bench.overhead.source import END, FRAMES, TEXT, WORDS, application
from proxy.wire.openai_chat_parse import parse
from tests.proxy.live import CHAT, serving

REQUEST = parse(body_of(SIZES["400 kB"])).request


@asynccontextmanager
async def relayed(app: web.Application) -> AsyncIterator[RelayBackend]:
    async with TestServer(app) as server:
        backend = RelayBackend(str(server.make_url("")).rstrip("/"))
        await backend.start()
        yield backend
        await backend.stop()


def answering(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/v1/chat/completions", answer)
    return app


async def test_one_delta_per_word() -> None:
    async with relayed(application(0.0)) as backend:
        generation = await backend.generate(REQUEST, PLAIN)
        deltas = []
        while (delta := await generation.next()) is not None:
            deltas.append(delta)
        await generation.close()
    assert [token.text for delta in deltas for token in delta.tokens] == WORDS
    assert [delta.position for delta in deltas] == list(range(len(WORDS) + 1))
    assert [delta.end for delta in deltas] == [None] * len(WORDS) + ["stop"]


async def test_the_whole_request_is_forwarded() -> None:
    seen: list[Any] = []

    async def answer(http: web.Request) -> web.StreamResponse:
        seen.append(await http.json())
        return web.Response(body=b"".join(FRAMES) + END, content_type="text/event-stream")

    async with relayed(answering(answer)) as backend:
        await (await backend.generate(REQUEST, PLAIN)).close()
    sent = json.loads(body_of(SIZES["400 kB"]))
    assert [message["role"] for message in seen[0]["messages"]] == [message["role"] for message in sent["messages"]]
    assert seen[0]["messages"][2]["tool_calls"] == sent["messages"][2]["tool_calls"]
    assert [tool["function"]["name"] for tool in seen[0]["tools"]] == [t["function"]["name"] for t in sent["tools"]]


async def test_one_connection_serves_one_request_after_the_other() -> None:
    ports: list[Any] = []

    async def answer(http: web.Request) -> web.StreamResponse:
        assert http.transport is not None
        ports.append(http.transport.get_extra_info("peername"))
        return web.Response(body=b"".join(FRAMES) + END, content_type="text/event-stream")

    async with relayed(answering(answer)) as backend:
        for _ in range(3):
            generation = await backend.generate(REQUEST, PLAIN)
            while await generation.next() is not None:
                pass
            await generation.close()
    assert len(set(ports)) == 1


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (lambda: web.Response(status=503), "status 503"),
        (lambda: web.Response(body=b"".join(FRAMES)), "broke off"),
    ],
)
async def test_a_source_that_fails(response: Callable[[], web.Response], words: str) -> None:
    async def answer(http: web.Request) -> web.StreamResponse:
        return response()

    async with relayed(answering(answer)) as backend:
        with pytest.raises(BackendError, match=words):
            generation = await backend.generate(REQUEST, PLAIN)
            try:
                while await generation.next() is not None:
                    pass
            finally:
                await generation.close()


async def test_through_the_server_every_word_is_an_event_of_its_own() -> None:
    async with TestServer(application(0.002)) as server:
        backend: Any = RelayBackend(str(server.make_url("")).rstrip("/"))
        async with serving(backend, model={"any_name": True}, decode={"mode": "plain"}) as live:
            answer = await live.ask("POST", CHAT, body_of(SIZES["1 kB"]))
            assert answer.status == 200
            assert answer.body.count(b'"content":"') == len(WORDS) + 1  # and the empty one with the role
            assert not await live.incidents()
            whole = await live.ask("POST", CHAT, json.loads(body_of(SIZES["1 kB"])) | {"stream": False})
            assert whole.json["choices"][0]["message"]["content"] == TEXT
