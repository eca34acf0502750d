"""One streamed response: headers, keep-alives, failures before and after the first byte, clients that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy.backends.errors import BackendError, Overloaded
from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Started, TextDelta, ThinkingDelta, Timings, Usage
from proxy.server.ending import Ending
from proxy.server.streaming import Encoder, Outcome, Pace, stream
from proxy.wire.anthropic_messages import AnthropicEncoder
from proxy.wire.openai_chat import OpenAIChatEncoder
from tests.proxy.live import CHAT, MESSAGES, OPENAI_TOOLS, RESPONSES, RESPONSES_TOOLS, Gate, body_for, payloads, serving
from tests.proxy.scripted import Script, ScriptedBackend, call_text

pytestmark = pytest.mark.usefixtures("nothing_blocks")
ROUTES = [CHAT, MESSAGES]
REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),), request_id="req_1")
END = Finished("stop", Usage(3, 0, 2), Timings(), "plain")
NEVER = 3600.0
PACE = Pace(NEVER, NEVER, Ending())


def everything(_: Event) -> bool:
    return True


def encoder() -> Encoder:
    return OpenAIChatEncoder(REQUEST, "m")


@pytest.mark.parametrize("path", ROUTES)
async def test_headers_of_a_stream(path: str) -> None:
    async with serving("fine") as live:
        answer = await live.post(path, stream=True)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
        assert "content-encoding" not in answer.headers
        assert not answer.broken


async def test_headers_leave_with_the_first_words_and_the_end_with_the_last_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []
    transport = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write, writelines = transport.write, transport.writelines

    def noted(self: Any, data: bytes) -> None:
        sent.append(bytes(data))
        write(self, data)

    def all_noted(self: Any, parts: Any) -> None:
        parts = list(parts)
        sent.append(b"".join(parts))
        writelines(self, parts)

    monkeypatch.setattr(transport, "write", noted)
    monkeypatch.setattr(transport, "writelines", all_noted)
    async with serving("fine") as live:
        assert not (await live.post(CHAT, stream=True)).broken
    (head,) = [data for data in sent if data.startswith(b"HTTP/1.1 200")]
    assert b"\r\n\r\n" in head
    assert b"data: {" in head
    (end,) = [data for data in sent if b"[DONE]" in data]
    assert b'"finish_reason":"stop"' in end
    assert end.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("path", ROUTES)
async def test_a_backend_that_fails_in_mid_stream(path: str) -> None:
    """The API's in-stream error is the last thing said, and the connection ends without a true end."""
    script = Script("one two three four five six", fail_at=4, width=2, failure=BackendError("it broke"))
    async with serving(script) as live:
        answer = await live.post(path, stream=True)
        assert (answer.status, answer.broken) == (200, True)
        last = payloads(answer.body)[-1]
        assert last["error"]["message"] == "it broke"
        if path == CHAT:
            assert last["error"]["type"] == "server_error"
            assert b"[DONE]" not in answer.body
            assert b'"finish_reason":"' not in answer.body
        else:
            assert (last["type"], last["error"]["type"]) == ("error", "api_error")
            assert answer.body.rpartition(b"event: ")[2].startswith(b"error\n")
            assert b"message_stop" not in answer.body
        assert b"three" in answer.body
        assert (await live.post(path, max_tokens=2)).status == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
async def test_a_failure_before_any_content_is_a_status(path: str) -> None:
    """Steps were decoded, but nothing of them was sent: the opening of the message waits for its first content."""
    script = Script(call_text("ls", path="src"), fail_at=4, width=2, failure=Overloaded("busy"))
    async with serving(script) as live:
        answer = await live.post(path, stream=True, tools=RESPONSES_TOOLS if path == RESPONSES else None)
        assert (answer.status, answer.broken) == (529 if path == MESSAGES else 503, False)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-should-retry"] == "true"
        assert answer.json["error"]["message"] == "busy"
        assert live.backend.generations[0].steps > 1


async def test_an_overload_in_mid_stream_keeps_its_kind() -> None:
    async with serving(Script("one two three", fail_at=1, width=1, failure=Overloaded("busy"))) as live:
        answer = await live.post(MESSAGES, stream=True)
        assert payloads(answer.body)[-1]["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("path", ROUTES)
async def test_a_failure_in_a_whole_response_is_a_status(path: str) -> None:
    async with serving(Script("one two three", fail_at=2, width=1, failure=BackendError("it broke"))) as live:
        answer = await live.post(path)
        assert (answer.status, answer.json["error"]["message"]) == (500, "it broke")


@pytest.mark.parametrize("path", ROUTES)
async def test_signs_of_life_during_a_long_prefill(path: str) -> None:
    gate = Gate()
    async with serving(ScriptedBackend("fine", pace=gate), server={"keepalive_s": 0.01}) as live:
        body = body_for(path, stream=True)
        async with live.http.post(live.base + path, json=body) as response:
            seen = b""
            while len(payloads(seen[: seen.rfind(b"\n\n") + 2])) < 3:
                seen += await response.content.readany()
            assert live.backend.generations[0].steps == 0
            gate.let(100)
            seen += await response.content.read()
        documents = payloads(seen)
        if path == CHAT:
            assert documents[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            assert documents[1]["choices"][0]["delta"] == {}
            assert seen.count(b'"role"') == 1
            assert documents[-1] == "[DONE]"
        else:
            assert documents[:2] == [{"type": "ping"}, {"type": "ping"}]
            assert seen.startswith(b"event: ping\n")
            assert documents[-1] == {"type": "message_stop"}
        assert b"fine" in seen


@pytest.mark.parametrize("path", ROUTES)
async def test_signs_of_life_while_a_call_is_held_back(path: str) -> None:
    gate = Gate(8)
    tools = (
        OPENAI_TOOLS if path == CHAT else [{"name": "ls", "input_schema": OPENAI_TOOLS[0]["function"]["parameters"]}]
    )
    backend = ScriptedBackend(call_text("ls", path="src"), pace=gate)
    async with serving(backend, server={"keepalive_s": 0.01}, decode={"mode": "plain"}) as live:
        body = body_for(path, stream=True, tools=tools)
        async with live.http.post(live.base + path, json=body) as response:
            await gate.used_up()
            seen = await response.content.readany()
            while len(payloads(seen[: seen.rfind(b"\n\n") + 2])) < 4:
                seen += await response.content.readany()
            assert b"ls" not in seen
            gate.let(1000)
            seen += await response.content.read()
        assert b"src" in seen


async def test_a_failure_after_a_sign_of_life_is_told_in_the_stream() -> None:
    """Headers are out by then: a status is no longer possible."""
    gate = Gate()
    backend = ScriptedBackend(Script("fine", fail_at=0, failure=BackendError("it broke")), pace=gate)
    async with serving(backend, server={"keepalive_s": 0.01}) as live:
        for path in ROUTES:
            async with live.http.post(live.base + path, json=body_for(path, stream=True)) as response:
                seen = await response.content.readany()
                gate.let(1)
                with pytest.raises(aiohttp.ClientPayloadError):
                    while True:
                        seen += await response.content.readany()
            assert response.status == 200
            assert payloads(seen)[-1]["error"]["message"] == "it broke"


Respond = Callable[[web.Request], AsyncGenerator[Event, None]]


@asynccontextmanager
async def streaming(
    respond: Respond, pace: Pace = PACE, passes: Callable[[Event], bool] = everything
) -> AsyncIterator[str]:
    """A server that streams what `respond` yields; its address. Once headers are out, `stream` must not raise."""
    raised: list[Exception] = []

    async def handler(http: web.Request) -> web.StreamResponse:
        try:
            async with aclosing(respond(http)) as events:
                return await stream(http, {"x-extra": "1"}, events, AnthropicEncoder(REQUEST, "m"), pace, passes)
        except Exception as error:
            raised.append(error)
            raise

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)  # a cancelled handler would see no error
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
    assert raised == []


@pytest.mark.parametrize("late", [BackendError("it broke"), RuntimeError("internals"), RequestError("internal", "x")])
async def test_whatever_fails_after_the_first_byte_ends_the_stream_with_an_error(late: Exception) -> None:
    async def respond(_: web.Request) -> AsyncGenerator[Event, None]:
        yield Started(3, 0)
        yield TextDelta("hi")
        raise late

    async with streaming(respond) as base, aiohttp.ClientSession() as http, http.get(base) as response:
        seen = b""
        with pytest.raises(aiohttp.ClientPayloadError):
            while True:
                seen += await response.content.readany()
        assert response.headers["x-extra"] == "1"
        last = payloads(seen)[-1]
        assert (last["type"], last["error"]["type"]) == ("error", "api_error")
        assert "internals" not in last["error"]["message"]


@pytest.mark.parametrize("early", [BackendError("it broke"), RuntimeError("internals"), ConnectionResetError("gone")])
async def test_whatever_fails_before_the_first_byte_is_left_to_the_caller(early: Exception) -> None:
    raised: list[Exception] = []

    async def respond(_: web.Request) -> AsyncGenerator[Event, None]:
        raise early
        yield Started(3, 0)

    async def handler(http: web.Request) -> web.StreamResponse:
        try:
            return await stream(http, {}, respond(http), encoder(), PACE, everything)
        except Exception as error:
            raised.append(error)
            return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{runner.addresses[0][1]}") as response:
        assert response.status == 500
    await runner.cleanup()
    assert raised == [early]


async def test_events_that_end_without_a_result_do_not_look_complete() -> None:
    async def respond(_: web.Request) -> AsyncGenerator[Event, None]:
        yield Started(3, 0)
        yield TextDelta("hi")

    async with streaming(respond) as base, aiohttp.ClientSession() as http, http.get(base) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


@pytest.mark.parametrize("path", ROUTES)
async def test_the_end_does_not_wait_for_what_is_tidied_up(path: str) -> None:
    """Closing waits for the engine; keep-alives meanwhile would come after the end, and break it."""
    let = asyncio.Event()

    class SlowToClose(ScriptedBackend):
        async def generate(self, request: Any, mode: Any) -> Any:
            generation = await super().generate(request, mode)
            close = generation.close

            async def slowly() -> None:
                await let.wait()
                await close()

            generation.close = slowly  # type: ignore[method-assign]
            return generation

    async with serving(SlowToClose("fine"), server={"keepalive_s": 0.01}) as live:
        async with asyncio.timeout(20):
            answer = await live.post(path, stream=True)
        assert not answer.broken
        assert payloads(answer.body)[-1] in ("[DONE]", {"type": "message_stop"})
        let.set()
        await live.idle()


async def test_a_client_that_is_gone_when_a_frame_is_written_is_no_error() -> None:
    ended = asyncio.Event()

    async def respond(http: web.Request) -> AsyncGenerator[Event, None]:
        try:
            yield Started(3, 0)
            assert http.transport is not None
            http.transport.abort()
            yield TextDelta("nobody reads this")
        finally:
            ended.set()

    with capture_logs() as logs:
        async with streaming(respond) as base, aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientError):
                async with http.get(base) as response:
                    await response.content.read()
            async with asyncio.timeout(60):
                await ended.wait()
    assert logs == []


async def outcome_of(*events: Event, failure: BaseException | None = None) -> dict[str, Any]:
    """The line that is logged about a response of these events."""
    outcome = Outcome(REQUEST)
    with capture_logs() as logs:
        try:
            with outcome.logged():
                assert all(map(outcome.passes, events))
                if failure is not None:
                    raise failure
        except BaseException as error:
            assert error is failure
    (line,) = logs
    assert (line["event"], line["request_id"], line["api"]) == ("request.end", "req_1", "openai.chat")
    return dict(line)


async def test_what_is_logged_about_a_response() -> None:
    end = Finished("length", Usage(9, 4, 2, 0, 5), Timings(draft_n=3, draft_n_accepted=2), "plain", None, ("inc_1",))
    line = await outcome_of(Started(9, 4), end)
    assert {key: line[key] for key in ("outcome", "mode", "incidents", "discarded_tokens", "draft_n_accepted")} == {
        "outcome": "length",
        "mode": "plain",
        "incidents": ["inc_1"],
        "discarded_tokens": 5,
        "draft_n_accepted": 2,
    }
    line = await outcome_of(Started(9, 4), Failed("internal", "x"))
    assert (line["outcome"], line["kind"]) == ("failed", "internal")
    assert (await outcome_of(failure=Overloaded("x")))["outcome"] == "overloaded"
    assert (await outcome_of(Started(1, 0), TextDelta("a")))["outcome"] == "abandoned"
    assert (await outcome_of(Started(1, 0), failure=asyncio.CancelledError()))["outcome"] == "abandoned"
    assert (await outcome_of(Started(1, 0), failure=ConnectionResetError()))["outcome"] == "abandoned"
    assert (await outcome_of(failure=KeyError("ours")))["outcome"] == "internal"


def test_thinking_that_is_switched_off_is_observed_and_does_not_pass() -> None:
    class Seen(list[Event]):
        def saw(self, event: Event) -> None:
            self.append(event)

        def ended(self, outcome: str) -> None:
            raise AssertionError("it goes on")

    events, seen = (Started(1, 0), ThinkingDelta("hm"), TextDelta("hi"), ThinkingDelta("so"), END), Seen()
    outcome = Outcome(REQUEST, seen, thinking=False)
    assert [event for event in events if outcome.passes(event)] == [Started(1, 0), TextDelta("hi"), END]
    assert seen == list(events)


async def test_what_does_not_pass_is_no_sign_of_life() -> None:
    """Else a client that hides long thinking would hear nothing until its time-out."""
    read = asyncio.Event()

    async def respond(_: web.Request) -> AsyncGenerator[Event, None]:
        yield Started(3, 0)
        while not read.is_set():
            yield ThinkingDelta("hm")
            await asyncio.sleep(0.001)
        yield END

    def passes(event: Event) -> bool:
        return not isinstance(event, ThinkingDelta)

    async with (
        streaming(respond, Pace(0.02, NEVER, Ending()), passes) as base,
        aiohttp.ClientSession() as http,
        http.get(base) as response,
        asyncio.timeout(60),
    ):
        await response.content.readuntil(b"event: ping\n")
        read.set()
        assert b"hm" not in await response.content.read()


@pytest.mark.parametrize("server_first", [True, False])
async def test_cancelled_twice_it_still_waits_for_a_step_that_cannot_be_interrupted(server_first: bool) -> None:
    """The server ends and the client leaves, in either order, while the engine is busy: an abandoned response."""
    busy, told, released = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        if backend.generations[0].steps < 2:
            return
        busy.set()
        try:
            await released.wait()
        except asyncio.CancelledError:
            told.set()
            await released.wait()
            raise

    backend = ScriptedBackend(Script("one two three four", width=1), pace=pace)
    with capture_logs() as logs:
        async with serving(backend, decode={"mode": "plain"}) as live, asyncio.timeout(60):
            client = asyncio.ensure_future(live.post(CHAT, stream=True))
            await busy.wait()
            for server in (server_first, not server_first):
                if server:
                    live.service.ending.end()
                else:
                    client.cancel()
                await told.wait()
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert (live.service.in_flight, backend.generations[0].closes) == (1, 0)
            released.set()
            await live.idle()
            assert backend.generations[0].closes == 1
    assert [line.get("outcome") for line in logs if line["event"] == "request.end"] == ["abandoned"]
    assert not [line for line in logs if line["event"] == "request.failed"]
