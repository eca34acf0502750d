"""Falling back from one lane to another inside a response: what is asked again, what is continued, what is closed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from policies.modes import PLAIN
from proxy.backends import lane_generation
from proxy.backends.base import Delta, Generation
from proxy.backends.lane_generation import MOST_TOKENS
from proxy.backends.lanes import LanesBackend
from proxy.conversation import ChatRequest, Message
from proxy.lanes.settings import Lane as Url
from proxy.lanes.settings import Lanes
from tests.proxy.lanes.pool import known, pool, two_lanes
from tests.proxy.lanes.raw import DONE, HEAD, event, raw
from tests.proxy.lanes.raw import Asked as Sent
from tests.proxy.lanes.told import APIS, body, told
from tests.proxy.live import CHAT, MESSAGES, RESPONSES, payloads
from tests.upstreams.all_defects import DEFECTS
from tests.upstreams.dialects import KINDS, Dialect, Kind
from tests.upstreams.faults import Fault
from tests.upstreams.lanes import Asked, Lane
from tests.upstreams.replies import Call, Reply, Text, Thinking

LS, BAD = Call("ls", {"path": "src"}), Call("ls", {"pth": "src"})
GOOD = ("ls", {"path": "src"})


def lanes(kind: Kind, *parts: Any, sound: tuple[Any, ...] | None = None, **options: Any) -> Any:
    plain = parts if sound is None else sound
    return two_lanes(kind, Lane(Reply(parts), width=4, speculation="mtp"), Lane(Reply(plain)), **options)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", KINDS)
async def test_where_nothing_was_delivered_it_begins_anew(kind: Kind, api: str) -> None:
    upstream = lanes(kind, BAD, sound=(LS,))
    async with pool(upstream) as running:
        got = told(api, *await running.post(api, body(api)))
        assert (got.calls, got.text, got.error) == ([GOOD], "", "")
        (fast,), (plain,) = upstream.of("fast"), upstream.of("plain")
        assert plain.body["messages"] == fast.body["messages"]
        assert await fast.end() in ("left", "finished")
        assert ("cache_salt" in plain.body) == (kind in ("vllm", "sglang"))
        assert "cache_salt" not in fast.body
        (record,) = await running.incidents()
        assert (record.opened["detector"], record.opened["action"], record.state) == (
            "tool.schema",
            "rewind",
            "recovered",
        )
        assert (record.opened["mode_before"], record.opened["mode_after"]) == ("mtp/full", "plain")
        changed = record.opened["changed"]
        assert changed["lane"] == ["fast", "plain"]
        assert changed["cache_salt"] == ("none" if kind == "openai" else "fresh")
        assert (record.culprit, record.certainty) == ("speculation", "likely")


async def test_the_stream_that_is_left_is_closed_before_the_other_goes_on() -> None:
    """Else a loop runs on to its limit, and the plain lane shares the device with it."""

    async def pace() -> None:
        if upstream.of("plain"):  # nobody gets a word more until the fast lane is free
            await asyncio.wait_for(upstream.of("fast")[0].settled.wait(), 10)
        await asyncio.sleep(0)

    endless = Lane(Reply((BAD, Text("word " * 4000))), width=4)
    upstream = two_lanes("vllm", endless, Lane(Reply((LS,))), pace=pace)
    async with pool(upstream) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert (got.calls, got.error) == ([GOOD], "")
        assert upstream.of("fast")[0].outcome == "left"


async def test_two_fall_backs_draw_two_salts() -> None:
    upstream = lanes("vllm", BAD, sound=(LS,))
    async with pool(upstream, lanes={"cache_salt": "ours"}) as running:
        for _ in range(2):
            await running.post(CHAT, body(CHAT))
    salts = [seen.body["cache_salt"] for seen in upstream.of("plain")]
    assert len({*salts, "ours"}) == 3
    assert {seen.body["cache_salt"] for seen in upstream.of("fast")} == {"ours"}


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("kind", ["vllm", "sglang", "llamacpp"])
async def test_delivered_text_is_continued_and_not_repeated(kind: Kind, api: str) -> None:
    upstream = lanes(kind, Text("I list it.\n"), BAD, sound=(Text("I list it.\n"), Text("Now.\n"), LS))
    async with pool(upstream) as running:
        got = told(api, *await running.post(api, body(api)))
        assert (got.text, got.calls, got.error) == ("I list it.\nNow.\n", [GOOD], "")
        (plain,) = upstream.of("plain")
        assert plain.body["messages"][-1] == {"role": "assistant", "content": "I list it."}
        (record,) = await running.incidents()
        assert record.state == "recovered"


BLOCKS = {MESSAGES: "content_block_start", RESPONSES: "response.output_item.added"}


def thoughts(api: str, answer: bytes) -> int:
    """How often the client is told that thinking begins."""
    if api == CHAT:  # it has no blocks: what was thought is what stands before anything else
        deltas = [chunk["choices"][0]["delta"] for chunk in payloads(answer) if chunk != "[DONE]" and chunk["choices"]]
        kinds = ["reasoning_content" in delta for delta in deltas if delta and delta.get("content") != ""]
        return sum(now and not before for before, now in pairwise([False, *kinds]))
    begun = [event for event in payloads(answer) if event["type"] == BLOCKS[api]]
    return sum((event.get("content_block") or event["item"])["type"] in ("thinking", "reasoning") for event in begun)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("again", ["I look.\n", "I see.\n", "I look.\nAnd there.\n", "I"])
async def test_thinking_that_came_to_its_end_is_told_once(api: str, again: str) -> None:
    """The plain lane thinks anew, whatever the client has; it is not told so."""
    upstream = lanes("vllm", Thinking("I look.\n"), BAD, sound=(Thinking(again), LS))
    async with pool(upstream) as running:
        status, answer = await running.post(api, body(api))
        got = told(api, status, answer)
        assert (got.thinking, got.calls, got.error) == ("I look.\n", [GOOD], "")
        assert thoughts(api, answer) == 1
        assert upstream.of("plain")[0].body["messages"] == upstream.of("fast")[0].body["messages"]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("again", "heard"),
    [
        ("I look at a, at b.\n", "I look at a, at b.\n"),
        ("I look at a", "I look at a"),
        ("I look at", "I look at a"),
        ("I look again.\n", "I look at a\n\nI look again.\n"),
    ],
    ids=["goes on", "same", "shorter", "another"],
)
async def test_thinking_that_was_broken_off_goes_on_in_its_block(api: str, again: str, heard: str) -> None:
    """Where its lane dies. What is said again is not told again; other thoughts begin behind a blank line."""
    fast = Lane(Reply((Thinking("I look at a"),), "abort"), width=2, speculation="mtp")
    upstream = two_lanes("vllm", fast, Lane(Reply((Thinking(again), Text("So.\n"), LS))))
    async with pool(upstream) as running:
        status, answer = await running.post(api, body(api))
        got = told(api, status, answer)
        assert (got.thinking, got.text, got.calls, got.error) == (heard, "So.\n", [GOOD], "")
        assert thoughts(api, answer) == 1


@pytest.mark.parametrize("kind", ["vllm", "openai"])
@pytest.mark.parametrize("again", ["I look.\n", "I see it all.\n"])
async def test_usage_is_that_of_what_the_client_gets(kind: Kind, again: str) -> None:
    """Thoughts that it was not told are no reason to charge it; they stand beside what rewinds threw away."""
    shown = two_lanes(kind, Lane(Reply((Thinking("I look.\n"), LS))))  # as the plain one, a token at a time
    healed = lanes(kind, Thinking("I look.\n"), BAD, sound=(Thinking(again), LS))
    usages = []
    for upstream in (shown, healed):
        async with pool(upstream) as running:
            status, answer = await running.post(CHAT, body(CHAT, stream_options={"include_usage": True}))
            assert told(CHAT, status, answer).thinking == "I look.\n"
            assert thoughts(CHAT, answer) == 1
            usages += [chunk["usage"] for chunk in payloads(answer) if chunk != "[DONE]" and chunk.get("usage")]
    one, other = usages
    assert (
        one["completion_tokens_details"]["reasoning_tokens"] == other["completion_tokens_details"]["reasoning_tokens"]
    )
    assert one["completion_tokens"] == other["completion_tokens"]


@pytest.mark.parametrize("api", APIS)
async def test_a_text_that_is_continued_is_not_interrupted_by_thoughts(api: str) -> None:
    """By a server that thinks before it goes on, and says again what it goes on behind."""
    first = "I list all that there is below it, one thing after the other. "
    fast = Lane(Reply((Thinking("I look.\n"), Text(first), BAD)), width=4, speculation="mtp")
    sound = Reply((Thinking("I see.\n"), Text(f"{first}Now. "), LS))
    upstream = two_lanes("vllm", fast, Lane(sound, prefill="ignores"))
    async with pool(upstream) as running:
        status, answer = await running.post(api, body(api))
        got = told(api, status, answer)
        assert (got.thinking, got.text, got.calls) == ("I look.\n", f"{first}Now. ", [GOOD])
        assert upstream.of("plain")[0].body["messages"][-1]["content"].startswith("I list all that")
        assert thoughts(api, answer) == 1
        if api != CHAT:
            texts = [event for event in payloads(answer) if event["type"] == BLOCKS[api]]
            assert len(texts) == 3, "thinking, one text, a call"


async def test_thoughts_behind_what_the_plain_lane_has_said_are_told() -> None:
    sound = (Thinking("I see.\n"), Text("Well. "), Thinking("Now.\n"), LS)
    async with pool(lanes("vllm", Thinking("I look.\n"), BAD, sound=sound)) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert (got.thinking, got.text, got.calls) == ("I look.\nNow.\n", "Well. ", [GOOD])


async def test_a_loop_in_thoughts_that_are_not_told_is_found() -> None:
    looped = "and so on and on " * 400
    upstream = lanes("vllm", Thinking("I look.\n"), BAD, sound=(Thinking(looped), LS))
    async with pool(upstream) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert (got.thinking, got.calls) == ("I look.\n", [])
        assert "[specguard]" in got.text
        assert {record.opened["detector"].partition(".")[0] for record in await running.incidents()} == {"tool", "loop"}


@pytest.mark.parametrize("api", APIS)
async def test_a_lane_that_cannot_continue_a_text_ends_it_with_the_apis_error(api: str) -> None:
    upstream = lanes("vllm", Text("I list it.\n"), BAD, sound=(Text("I list it.\n"), LS))
    async with pool(upstream, known("vllm", prefill=False)) as running:
        got = told(api, *await running.post(api, body(api)))
        assert (got.calls, got.text) == ([], "I list it.\n")
        assert "cannot continue a text" in got.error
        assert upstream.of("plain") == []
        assert await upstream.of("fast")[0].end() in ("left", "finished")
        (record,) = await running.incidents()
        assert record.state == "ended"


def fault_of(answer: bytes) -> tuple[str, str]:
    """What kind of error a stream tells of, and its words."""
    for told_of in payloads(answer):
        error = None if told_of == "[DONE]" else told_of.get("error") or (told_of.get("response") or {}).get("error")
        if error:
            return str(error.get("type") or error.get("code")), str(error["message"])
    return "", ""


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("delivered", [(Text("I list it.\n"),), (Thinking("I look.\n"),)], ids=["text", "thoughts"])
async def test_a_plain_lane_that_refuses_what_the_fast_one_took_does_not_blame_the_client(
    api: str, delivered: tuple[Any, ...]
) -> None:
    """Who is told that its request is wrong does not ask again; it is the lane that takes no text to go on behind, or
    is set up otherwise."""

    def refused(_: Asked, dialect: Dialect) -> web.Response:
        return web.json_response(dialect.error(400, "no tools without a parser"), status=400)

    fast = Lane(Reply((*delivered, BAD)), width=4, speculation="mtp")
    async with pool(two_lanes("vllm", fast, Lane(Reply((LS,)), (Fault(http=refused),)))) as running:
        _, answer = await running.post(api, body(api))
        kind, words = fault_of(answer)
        assert kind == {CHAT: "server_error", RESPONSES: "server_error", MESSAGES: "api_error"}[api]
        assert "no tools without a parser" in words
        status, answer = await running.post(api, body(api, stream=False))
        assert status == 502
        assert {record.state for record in await running.incidents()} == {"ended"}


@pytest.mark.parametrize("api", APIS)
async def test_a_plain_lane_with_a_smaller_window_says_so(api: str) -> None:
    """About that a client can do something."""
    fast = Lane(Reply((Thinking("I look.\n"), BAD)), width=4, speculation="mtp")
    long = "many words " * 200
    fields: dict[str, Any] = {"input": long} if api == RESPONSES else {"messages": [{"role": "user", "content": long}]}
    async with pool(two_lanes("vllm", fast, Lane(Reply((LS,)), window=64))) as running:
        _, answer = await running.post(api, body(api, **fields))
        words = fault_of(answer)[1] or json.loads(answer)["error"]["message"]
        assert words.startswith("prompt is too long: ")
        assert fault_of(answer)[0] in ("invalid_request_error", "context_length_exceeded")
        status, answer = await running.post(api, body(api, stream=False, **fields))
        assert status == 400
        words = json.loads(answer)["error"]["message"]
        assert f"prompt is too long: {words.split()[4]} tokens > 64 maximum" in words, "agents compact at this"


async def test_behind_a_call_that_was_sent_nothing_is_asked_again() -> None:
    upstream = lanes("vllm", Text("Both.\n"), LS, BAD, sound=(Text("Both.\n"), LS, LS))
    async with pool(upstream) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert (got.calls, got.end, got.error) == ([GOOD], "tool_calls", "")
        assert upstream.of("plain") == []
        (record,) = await running.incidents()
        assert record.state == "ended"


@pytest.mark.parametrize("api", APIS)
async def test_a_client_that_leaves_ends_the_stream_of_its_lane(api: str) -> None:
    endless = Lane(lambda asked: Reply((Text("word " * 40 + "and " * 3),), "stop"), width=1)
    waits = asyncio.Event()

    async def pace() -> None:
        await asyncio.wait_for(waits.wait(), 30) if upstream.chats and upstream.chats[0].frames > 20 else None
        await asyncio.sleep(0)

    upstream = two_lanes("vllm", endless, pace=pace)
    async with pool(upstream) as running:
        async with running.http.post(running.base + api, json=body(api)) as response:
            await response.content.readany()
        assert await upstream.chats[0].end() == "left"


async def test_usage_counts_what_was_delivered() -> None:
    sound = (Text("I list it.\n"), LS)
    async with pool(lanes("vllm", Text("I list it.\n"), BAD, sound=sound)) as running:
        healed = told(CHAT, *await running.post(CHAT, body(CHAT)))
    async with pool(lanes("vllm", *sound)) as running:
        clean = told(CHAT, *await running.post(CHAT, body(CHAT)))
    assert healed.output_tokens is not None
    assert clean.output_tokens is not None
    # which of a chunk's tokens says what is a guess
    assert clean.output_tokens <= healed.output_tokens <= clean.output_tokens + 4


async def test_the_usage_of_a_server_without_ids_is_its_own_count() -> None:
    upstream = lanes("llamacpp", Text("unbelievably "), LS)
    async with pool(upstream) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        direct = upstream.counters["fast"].generated
    assert got.output_tokens == direct + 1  # the end of the turn


async def test_behind_a_fall_back_it_is_that_and_what_was_delivered_before() -> None:
    upstream = lanes("llamacpp", Text("I list it.\n"), BAD, sound=(Text("I list it.\n"), LS))
    async with pool(upstream) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        of_plain = upstream.counters["plain"].generated + 1  # the end of the turn
    assert (got.text, got.calls, got.error) == ("I list it.\n", [GOOD], "")
    assert got.output_tokens is not None
    assert 3 <= got.output_tokens - of_plain <= 8  # a text of five words and marks, made tokens of it


async def test_a_limit_of_tokens_is_what_is_left_of_it() -> None:
    upstream = lanes("vllm", Text("I list it.\n"), BAD, sound=(Text("I list it.\n"), LS))
    async with pool(upstream) as running:
        await running.post(CHAT, body(CHAT, max_tokens=200))
    (fast,), (plain,) = upstream.of("fast"), upstream.of("plain")
    assert fast.body["max_tokens"] == 200
    assert 180 < plain.body["max_tokens"] < 200


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lane_that_ignores_the_limit_is_ended_at_it(kind: Kind) -> None:
    """At eight times as many pieces of text where the server tells no ids: nobody knows how long its tokens are."""
    upstream = two_lanes(kind, DEFECTS["stream_without_end"].lane())
    async with pool(upstream) as running:
        async with asyncio.timeout(60):
            got = told(CHAT, *await running.post(CHAT, body(CHAT, max_tokens=100)))
        assert (got.end, got.error) == ("length", "")
        assert len(got.text.split()) <= (200 if kind in ("vllm", "sglang") else 2_000)
        assert await upstream.chats[0].end() == "left"


async def test_a_lane_that_ignores_its_own_window_is_ended_there() -> None:
    upstream = two_lanes("vllm", DEFECTS["stream_without_end"].lane())
    async with pool(upstream, known("vllm", context_window=600)) as running:
        async with asyncio.timeout(60):
            got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert (got.end, got.error) == ("length", "")
        assert len(got.text.split()) <= 700
        assert await upstream.chats[0].end() == "left"


async def test_a_demanded_form_cannot_be_continued() -> None:
    upstream = lanes("vllm", Text("<tool_call>\n"), sound=(Text("{}"),))
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    async with pool(upstream) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT, response_format=form)))
        assert got.error == ""  # nothing was sent yet
        assert upstream.of("plain")[0].body["response_format"]["type"] == "json_schema"
    upstream = lanes("vllm", Text("well well well well well <tool_call>\n"), sound=(Text("{}"),))
    async with pool(upstream) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT, response_format=form)))
        assert "demanded form" in got.error


async def test_a_long_chunk_is_many_steps() -> None:
    text = "".join(f"{hashlib.sha256(str(number).encode()).hexdigest()[:5]} " for number in range(500))
    upstream = two_lanes("openai", Lane(lambda asked: Reply((Text("a "), LS)), width=1))
    async with pool(upstream) as running:
        backend = running.service.backend
        before = backend.load.steps  # type: ignore[attr-defined]
        upstream.lanes["fast"] = Lane(Reply((Text(text),)), width=5000)
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert got.text == text
        assert backend.load.steps > before + 500 // MOST_TOKENS  # type: ignore[attr-defined]
        await running.service.idle.wait()  # the end does not wait for what is tidied up
        assert backend.load.running == 0  # type: ignore[attr-defined]


@asynccontextmanager
async def begun(*pieces: bytes, repeats: bytes = b"") -> AsyncIterator[tuple[Generation, Sent]]:
    """The response of a single lane that sends these bytes, and some of them for ever."""

    async def answer(asked: Sent) -> None:
        for piece in pieces:
            await asked.send(piece)
        while repeats:
            await asked.send(repeats)

    async with raw(answer) as server:
        backend = LanesBackend(Lanes(fast=Url(url=server.url)), prober=known("openai"))
        await backend.start()
        generation = await backend.generate(ChatRequest("openai.chat", "m", (Message("user", "go"),)), PLAIN)
        try:
            yield generation, server.asked[0]
        finally:
            await generation.close()
            await backend.stop()


async def deltas(generation: Generation) -> list[Delta]:
    found = []
    while (delta := await generation.next()) is not None:
        found.append(delta)
        if delta.found is not None or delta.end is not None:
            break
    return found


async def test_a_plain_lane_that_was_asked_and_is_not_needed_is_left() -> None:
    """The fast lane is away, and the client too before it is told so."""

    async def answer(asked: Sent) -> None:
        await asked.send(HEAD)
        while True:
            await asked.send(event(delta={"content": "on "}))

    async with raw(answer) as server:
        lanes = Lanes(fast=Url(url="http://127.0.0.1:1"), plain=Url(url=server.url), retries=0)
        backend = LanesBackend(lanes, prober=known("openai"))
        await backend.start()
        request = ChatRequest("openai.chat", "m", (Message("user", "go"),))
        generation = await backend.generate(request, backend.servers[0].mode)
        assert not server.asked[0].gone.is_set()
        await generation.close()
        await asyncio.wait_for(server.asked[0].gone.wait(), 10)
        await backend.stop()


async def test_a_beginning_that_is_no_repetition_after_all_is_not_lost() -> None:
    """It is held as long as it may be the delivered text again, and the response ends meanwhile."""
    end = event(finish_reason="stop")

    async def answer(asked: Sent) -> None:
        await asked.send(HEAD + event(delta={"content": "I list" if len(server.asked) > 1 else "I list it."}) + end)

    async with raw(answer) as server:
        backend = LanesBackend(Lanes(fast=Url(url=server.url)), prober=known("llamacpp"))
        await backend.start()
        generation = await backend.generate(ChatRequest("openai.chat", "m", (Message("user", "go"),)), PLAIN)
        first = [token for delta in await deltas(generation) for token in delta.tokens]
        await generation.rewind(len(first), PLAIN)
        assert server.asked[-1].body["messages"][-1] == {"role": "assistant", "content": "I list it."}
        more = [token for delta in await deltas(generation) for token in delta.tokens]
        await generation.close()
        await backend.stop()
    assert ["".join(token.text for token in tokens) for tokens in (first, more)] == ["I list it.", "I list"]


@pytest.mark.parametrize("said", ["word " * 40, " " * 64])
async def test_a_stream_says_no_more_than_fits_in_the_window(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_generation, "LEAST_WINDOW", 1000)
    monkeypatch.setattr(lane_generation, "MOST_CHARS", 1)
    async with begun(HEAD, repeats=event(delta={"content": said})) as (generation, asked):
        found = (await deltas(generation))[-1].found
        assert found is not None and found.evidence["failure"] == "endless"
        assert "more than fits in its window" in found.evidence["told"]
        await asyncio.wait_for(asked.gone.wait(), 10)


async def test_what_comes_at_once_is_one_step_and_is_said_before_what_goes_wrong_behind_it() -> None:
    said = b"".join(event(delta={"content": word}) for word in (" one", " two", " three"))
    broken = b'data: {"error": {"message": "no"}}\n\n'
    async with begun(HEAD + said + broken) as (generation, _):
        words, failed = await deltas(generation)
        assert [token.text for token in words.tokens] == [" one", " two", " thre", "e"]
        assert (words.found, words.end) == (None, None)
        assert failed.found is not None and (failed.position, failed.tokens) == (4, ())


async def test_what_was_said_before_an_end_that_nobody_knows_is_a_step_of_its_own() -> None:
    said = event(delta={"content": " one"}) + event(finish_reason="odd") + DONE
    async with begun(HEAD + said) as (generation, _):
        words, end = await deltas(generation)
        assert [token.text for token in words.tokens] == [" one"]
        assert words.found is None and end.found is not None and end.found.detector == "lane.finish"


@pytest.mark.parametrize(
    ("ends", "frame"), [(b'data: {"error": {"message": "no"}}\n\n', "error_object"), (b"", "closes")]
)
async def test_how_a_stream_fails_is_known_once_one_has(ends: bytes, frame: str) -> None:
    async with begun(HEAD + event(delta={"content": "a"}) + ends) as (generation, _):
        backend: Any = generation._backend  # type: ignore[attr-defined]
        assert backend.capabilities.lanes["fast"]["capabilities"]["error_frame"] == "unknown"
        await deltas(generation)
        lane = backend.capabilities.lanes["fast"]
        assert lane["capabilities"]["error_frame"] == frame
        assert "error_frame" not in lane["missing"]


async def test_chunks_that_say_nothing_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_generation, "MOST_EMPTY", 500)
    few = event() * 400 + event(delta={"content": "a"})
    async with begun(HEAD, few, few, repeats=event()) as (generation, asked):
        found = await deltas(generation)
        assert [token.text for delta in found for token in delta.tokens] == ["a", "a"]
        assert found[-1].found is not None and "says nothing" in found[-1].found.evidence["told"]
        await asyncio.wait_for(asked.gone.wait(), 10)


async def test_what_comes_behind_the_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_generation, "USAGE_S", 60.0)
    end = event(delta={"content": "a"}) + event(finish_reason="stop")
    async with begun(HEAD, end, repeats=event(delta={"content": "b " * 100})) as (generation, asked):
        found = await asyncio.wait_for(deltas(generation), 30)
        assert sum(len(delta.tokens) for delta in found) < 2 * lane_generation.MOST_BEHIND
        await asyncio.wait_for(asked.gone.wait(), 10)


async def test_the_plain_lane_fails_too() -> None:
    def dies(asked: Asked) -> Reply:
        return Reply((Text("so far"),), "abort")

    upstream = two_lanes("vllm", Lane(dies), Lane(dies))
    async with pool(upstream) as running:
        for api in (CHAT, RESPONSES, MESSAGES):
            got = told(api, *await running.post(api, body(api)))
            assert "gave the response up" in got.error
            assert (got.text.count("so"), got.calls) == (1, [])
        records = await running.incidents()
    assert {record.opened["detector"] for record in records} == {"lane.failed"}
    assert {record.culprit for record in records} == {"unknown"}


async def test_an_observer_delivers_what_the_lane_says() -> None:
    upstream = lanes("vllm", Text("so "), BAD, sound=(LS,))
    async with pool(upstream, guard={"action": "observe"}) as running:
        got = told(CHAT, *await running.post(CHAT, body(CHAT)))
        assert got.calls == [("ls", {"pth": "src"})]
        assert upstream.of("plain") == []
        (record,) = await running.incidents()
        assert record.opened["action"] == "none"
