"""The server through real HTTP: statuses and error shapes, models, readiness, the guard, clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from proxy.backends.errors import BackendError, ContextTooLong, Overloaded
from proxy.conversation import ChatRequest, Message
from proxy.server.handlers import session_key
from tests.proxy.live import (
    ANTHROPIC_TOOLS,
    CHAT,
    COUNT,
    MESSAGES,
    OPENAI_TOOLS,
    RESPONSES,
    USER,
    Answer,
    Gate,
    Live,
    body_for,
    payloads,
    serving,
)
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text

pytestmark = pytest.mark.usefixtures("nothing_blocks")
ROUTES = [CHAT, MESSAGES]
LS, BAD = call_text("ls", path="src"), call_text("ls", pth="secret")


def error_of(answer: Answer, path: str) -> dict[str, Any]:
    """The error in the API's own shape, else a failure."""
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json
    if path.startswith("/v1/messages"):
        assert set(body) == {"type", "error", "request_id"}
        assert body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}
        assert body["request_id"] == answer.headers["request-id"]
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


async def assert_serves(live: Live) -> None:
    for path in ROUTES:
        answer = await live.post(path)
        assert (answer.status, b"fine" in answer.body) == (200, True)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("raw", [b"", b"not json", b'{"model": "scripted"', b"[1]", b'"text"', b"\xff\xfe", b"NaN"])
async def test_a_body_that_is_no_json_object(path: str, raw: bytes) -> None:
    async with serving("fine") as live:
        answer = await live.ask("POST", path, raw)
        assert answer.status == 400
        error = error_of(answer, path)
        assert error["type"] == "invalid_request_error"
        assert "the body" in error["message"]
        assert answer.headers["x-should-retry"] == "false"
        await assert_serves(live)


@pytest.mark.parametrize("path", ROUTES)
async def test_refusals_name_the_field(path: str) -> None:
    bodies: list[tuple[dict[str, Any], str]] = [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": {"name": "ls"}}, "tools"),
    ]
    async with serving("fine") as live:
        for fields, field in bodies:
            answer = await live.post(path, **fields)
            error = error_of(answer, path)
            assert (answer.status, error["message"].startswith(f"{field}: ")) == (400, True), error
            if path == CHAT:
                assert error["param"] == field
        await assert_serves(live)


@pytest.mark.parametrize("path", [*ROUTES, COUNT])
async def test_an_unknown_model(path: str) -> None:
    async with serving("fine", model={"aliases": ("sonnet",)}) as live:
        answer = await live.post(path, model="gpt-9")
        assert answer.status == 404
        error = error_of(answer, path)
        assert "scripted, sonnet" in error["message"]
        assert error["type"] == ("invalid_request_error" if path == CHAT else "not_found_error")
        assert error.get("code") == ("model_not_found" if path == CHAT else None)
        assert (await live.post(path, model="sonnet")).status == 200


@pytest.mark.parametrize("path", ROUTES)
async def test_any_name_serves_every_model_under_its_name(path: str) -> None:
    async with serving("fine", model={"any_name": True}) as live:
        assert (await live.post(path, model="gpt-9")).json["model"] == "gpt-9"


@pytest.mark.parametrize("path", ROUTES)
async def test_a_bad_tool_schema(path: str) -> None:
    schema = {"type": "object", "properties": {"path": {"type": "strin"}}}
    tools: list[Any] = [{"name": "ls", "input_schema": schema}]
    if path == CHAT:
        tools = [{"type": "function", "function": {"name": "ls", "parameters": schema}}]
    async with serving("fine") as live:
        for stream in (False, True):
            answer = await live.post(path, tools=tools, stream=stream)
            assert answer.status == 400
            assert "ls" in error_of(answer, path)["message"]
        assert live.backend.requests == []
        await assert_serves(live)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_is_worded_so_that_agents_compact(stream: bool) -> None:
    async with serving(ScriptedBackend("x", refuse=ContextTooLong(9000, 8192))) as live:
        answer = await live.post(CHAT, stream=stream)
        error = error_of(answer, CHAT)
        assert (answer.status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
        assert error["message"].startswith("This model's maximum context length is 8192 tokens.")
        answer = await live.post(MESSAGES, stream=stream)
        error = error_of(answer, MESSAGES)
        assert (answer.status, error["type"]) == (400, "invalid_request_error")
        assert error["message"] == "prompt is too long: 9000 tokens > 8192 maximum"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_overload_asks_for_a_retry(stream: bool) -> None:
    async with serving(ScriptedBackend("x", refuse=Overloaded("too many"))) as live:
        for path, status, name in [(CHAT, 503, "server_error"), (MESSAGES, 529, "overloaded_error")]:
            answer = await live.post(path, stream=stream)
            assert (answer.status, error_of(answer, path)["type"]) == (status, name)
            assert answer.headers["x-should-retry"] == "true"
            assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_backend_that_fails_before_the_first_byte_gives_a_status(stream: bool) -> None:
    for backend in (ScriptedBackend("x", refuse=BackendError("broken")), ScriptedBackend(Script("x", fail_at=0))):
        async with serving(backend) as live:
            for path in ROUTES:
                answer = await live.post(path, stream=stream)
                assert (answer.status, answer.headers["x-should-retry"]) == (500, "false")
                error_of(answer, path)


@pytest.mark.parametrize("path", ROUTES)
async def test_a_wrong_method_says_which_one_is_allowed(path: str) -> None:
    async with serving("fine") as live:
        answer = await live.ask("PUT", path, b"{}")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert "use POST" in error_of(answer, path)["message"]
        await assert_serves(live)


async def test_a_wrong_path() -> None:
    async with serving("fine") as live:
        for path in ("/v1/chat/completion", "/v1/messages/batches", "/%ff%00"):
            answer = await live.ask("POST", path, b"{}")
            assert answer.status == 404
            assert "see GET /" in error_of(answer, path)["message"]


async def test_bytes_in_the_path_that_are_no_text() -> None:
    async with serving("fine") as live:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(live.base.rsplit(":", 1)[1]))
        writer.write(b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head = await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert head.split()[1] in (b"400", b"404")
        await assert_serves(live)


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_that_is_too_large(path: str) -> None:
    async with serving("fine", server={"max_body_bytes": 2000}) as live:
        answer = await live.post(path, messages=[{"role": "user", "content": "x" * 3000}])
        assert answer.status == 413
        assert "server.max_body_bytes" in error_of(answer, path)["message"]
        await assert_serves(live)


@pytest.mark.parametrize("path", ROUTES)
async def test_api_keys(path: str) -> None:
    async with serving("fine", server={"keys": ("right",)}) as live:
        body = body_for(path)
        for headers in ({}, {"x_api_key": "wrong"}, {"authorization": "Bearer wrong"}):
            answer = await live.ask("POST", path, body, **headers)
            assert answer.status == 401
            error = error_of(answer, path)
            assert error["type"] == ("invalid_request_error" if path == CHAT else "authentication_error")
            assert "wrong;" in error["message"]
        for headers in ({"x_api_key": "right"}, {"authorization": "Bearer right"}):
            assert (await live.ask("POST", path, body, **headers)).status == 200
        assert (await live.ask("GET", "/health")).status == 200
        assert (await live.ask("GET", "/v1/models")).status == 401


async def test_a_foreign_host_name_is_refused() -> None:
    async with serving("fine") as live:
        answer = await live.ask("POST", CHAT, body_for(CHAT), host="evil.example")
        assert (answer.status, error_of(answer, CHAT)["code"]) == (403, "forbidden")


async def test_models_in_both_shapes() -> None:
    async with serving("fine", model={"aliases": ("sonnet",)}) as live:
        cards = (await live.ask("GET", "/v1/models")).json
        assert cards["object"] == "list"
        assert [card["id"] for card in cards["data"]] == ["scripted", "sonnet"]
        assert {card["object"] for card in cards["data"]} == {"model"}
        answer = (await live.ask("GET", "/v1/models", anthropic_version="2023-06-01")).json
        assert (answer["first_id"], answer["last_id"], answer["has_more"]) == ("scripted", "sonnet", False)
        assert {card["type"] for card in answer["data"]} == {"model"}
        assert (await live.ask("GET", "/v1/models/sonnet")).json["id"] == "sonnet"
        assert (await live.ask("GET", "/v1/models/other")).status == 404


async def test_what_a_human_or_a_probe_asks_for() -> None:
    async with serving("fine") as live:
        assert (await live.ask("GET", "/health")).json == {"status": "ok"}
        assert "POST /v1/messages" in (await live.ask("GET", "/")).json["endpoints"]
        head = await live.ask("HEAD", "/")
        assert (head.status, head.body) == (200, b"")
        assert (await live.ask("GET", "/version")).json["version"]


async def test_ready_tells_what_is_served() -> None:
    async with serving("fine") as live:
        answer = await live.ask("GET", "/ready")
        assert answer.status == 200
        body = answer.json
        assert (body["ready"], body["reason"], body["mode"], body["exactness"]) == (True, None, str(FAST), "bitwise")
        assert (body["model"]["id"], body["model"]["context_window"]) == ("scripted", 8192)


async def test_count_tokens_does_not_generate() -> None:
    async with serving("fine") as live:
        few = (await live.post(COUNT)).json
        more = (await live.post(COUNT, system="one two three", tools=ANTHROPIC_TOOLS)).json
        assert few == {"input_tokens": 1}
        assert more["input_tokens"] > few["input_tokens"]
        assert live.backend.requests == []
        answer = await live.post(COUNT, messages=[])
        assert (answer.status, error_of(answer, COUNT)["type"]) == (400, "invalid_request_error")


async def test_request_ids() -> None:
    async with serving("fine") as live:
        answer = await live.ask("POST", MESSAGES, body_for(MESSAGES), x_request_id="mine-1")
        assert (answer.headers["request-id"], answer.headers["x-request-id"]) == ("mine-1", "mine-1")
        answer = await live.ask("POST", MESSAGES, body_for(MESSAGES), x_request_id="no good")
        assert answer.headers["request-id"].startswith("req_")
        answer = await live.ask("POST", CHAT, body_for(CHAT, stream=True), x_request_id="mine-2")
        assert answer.headers["x-request-id"] == "mine-2"
        assert [request.request_id for request in live.backend.requests][::2] == ["mine-1", "mine-2"]


async def test_ignored_fields_are_listed() -> None:
    async with serving("fine") as live:
        answer = await live.post(CHAT, user="u", store=False, **{"odd\r\nname": 1})
        assert answer.headers["x-specguard-ignored"] == "odd??name, store, user"
        answer = await live.post(COUNT, odd=1)
        assert answer.headers["x-specguard-ignored"] == "odd"


def test_session_keys_from_the_opening() -> None:
    """The key of a conversation stays while it grows, with and without a system prompt."""

    def key(*texts: str, session: str = "") -> str:
        messages = tuple(Message("system" if text.isupper() else "user", text) for text in texts)
        return session_key({}, ChatRequest("openai.chat", "m", messages, session=session))

    assert key("S", "b") == key("S", "b", "c") != key("S", "x")
    assert key("a") == key("a", "b", "c") != key("x", "b", "c")
    assert key("S", "b") != key("T", "b") != key("b")
    assert key("S") != key("T")
    assert key("a", session="mine") == key("b", session="mine") == "mine"
    assert key("half \ud83d").startswith("auto-")


async def test_session_keys_over_http() -> None:
    async with serving("fine") as live:
        await live.ask("POST", CHAT, body_for(CHAT, prompt_cache_key="cache-1"), x_session_id="header-1")
        await live.ask("POST", CHAT, body_for(CHAT, prompt_cache_key="cache-1"), x_session_id="not a key")
        await live.post(CHAT)
        sessions = [request.session for request in live.backend.requests]
        assert sessions[:2] == ["header-1", "cache-1"]
        assert sessions[2].startswith("auto-")


async def test_a_request_may_choose_its_decode_mode() -> None:
    async with serving(Script("right", fast="wrong")) as live:
        answer = await live.post(CHAT, speculative={"enabled": False})
        assert answer.headers["x-specguard-mode"] == "plain"
        assert answer.json["choices"][0]["message"]["content"] == "right"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_transcript_is_given_on_request_only(stream: bool) -> None:
    async with serving("one two") as live:
        for path in ROUTES:
            body = body_for(path, stream=stream)
            assert b"specguard" not in (await live.ask("POST", path, body)).body
            answer = await live.ask("POST", path, body, x_specguard_transcript="1")
            documents = payloads(answer.body) if stream else [answer.json]
            found = [d["specguard"] for d in documents if isinstance(d, dict) and "specguard" in d]
            assert [len(f["token_ids"]) for f in found] == [2]
            assert found[0]["mode"] == str(FAST)


def client_saw(path: str, answer: Answer) -> tuple[str, list[Any]]:
    """Text and calls of a streamed response."""
    text, calls = "", []
    for document in payloads(answer.body):
        if path == CHAT:
            if document == "[DONE]":
                continue
            for choice in document["choices"]:
                text += choice["delta"].get("content") or ""
                calls += [call["function"] for call in choice["delta"].get("tool_calls", ())]
        elif document["type"] == "content_block_start" and document["content_block"]["type"] == "tool_use":
            calls.append({"name": document["content_block"]["name"]})
        elif document["type"] == "content_block_delta":
            text += document["delta"].get("text", "")
            if "partial_json" in document["delta"]:
                calls[-1]["arguments"] = document["delta"]["partial_json"]
    return text, calls


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("script", "detector"),
    [
        (Script(f"I look.\n{LS}", fast=f"I look.\n{BAD}"), "tool.schema"),
        (Script(f"I look.\n{LS}", fast=f"I look.\n{LS.removesuffix('</tool_call>')}"), "tool.truncated"),
        (Script(f"I look.\n{LS}", fast=f"I look.\n{LS.replace('ls>', 'secret>', 1)}"), "tool.unknown"),
        (Script(f"I look.\n{'again and ' * 40}\n{LS}", fast="I look.\n" + "again and " * 400), "loop."),
    ],
    ids=["bad call", "truncated call", "unknown tool", "loop"],
)
async def test_the_guard_heals_the_same_response(path: str, script: Script, detector: str) -> None:
    tools = OPENAI_TOOLS if path == CHAT else ANTHROPIC_TOOLS
    async with serving(Script(script.plain)) as sound, serving(script) as live:
        plain = await sound.post(path, tools=tools, stream=True)
        healed = await live.post(path, tools=tools, stream=True)
        assert len(live.backend.requests) == 1
        text, calls = client_saw(path, plain)
        assert calls == [{"name": "ls", "arguments": '{"path":"src"}'}]
        assert client_saw(path, healed) == (text, calls)
        assert b"secret" not in healed.body
        assert b"pth" not in healed.body
        assert healed.body.count(b"[DONE]" if path == CHAT else b'"message_stop"') == 1
        records = await live.incidents()
        assert [record.opened["detector"].startswith(detector) for record in records] == [True]
        assert records[0].closed is not None
        assert records[0].closed["outcome"] == "recovered"
        assert await sound.incidents() == []
        whole = await live.post(path, tools=tools)
        assert b"src" in whole.body
        assert b"pth" not in whole.body
        assert b"secret" not in whole.body


async def first_bytes(live: Live, path: str, stream: bool = True) -> aiohttp.ClientResponse:
    """A response of which the head and something of the body has arrived."""
    response = await live.http.post(live.base + path, json=body_for(path, stream=stream))
    await response.content.readany()
    return response


@pytest.mark.parametrize("path", ROUTES)
async def test_a_client_that_leaves_stops_the_generation_within_one_step(path: str) -> None:
    gate = Gate(3)
    async with serving(ScriptedBackend("word " * 500, pace=gate)) as live:
        response = await first_bytes(live, path)
        await gate.used_up()
        response.close()
        await live.idle()
        generation = live.backend.generations[0]
        assert generation.closes >= 1
        assert generation.steps == 3
        gate.let(1000)
        assert (await live.post(path, max_tokens=3)).status == 200
        assert generation.steps == 3


@pytest.mark.parametrize("path", ROUTES)
async def test_a_client_that_leaves_a_fast_stream(path: str) -> None:
    async with serving(Script("a b c d e f g h " * 5000, width=1)) as live:
        response = await first_bytes(live, path)
        response.close()
        await live.idle()
        assert live.backend.generations[0].closes >= 1
        assert len(live.backend.generations[0].kept) < 40_000
        assert (await live.post(path, max_tokens=3)).status == 200


@pytest.mark.parametrize("path", ROUTES)
async def test_a_client_that_leaves_before_the_whole_body_is_ready(path: str) -> None:
    gate = Gate(1)
    async with serving(ScriptedBackend("word " * 500, pace=gate)) as live:
        asking = asyncio.create_task(live.post(path))
        await gate.used_up()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await live.idle()
        assert live.backend.generations[0].steps == 1
        assert live.backend.generations[0].closes >= 1


async def test_many_clients_at_once() -> None:
    async with serving("fine and done") as live:
        answers = await asyncio.gather(*(live.post(ROUTES[i % 2], stream=i % 3 == 0) for i in range(24)))
        assert {answer.status for answer in answers} == {200}
        assert live.service.in_flight == 0


async def test_a_system_message_only() -> None:
    async with serving("fine") as live:
        messages = [{"role": "system", "content": "be brief"}, *USER]
        assert (await live.post(CHAT, messages=messages)).status == 200
        assert [m.role for m in live.backend.requests[0].messages] == ["system", "user"]


async def test_the_place_of_an_ignored_tool_can_be_read() -> None:
    async with serving("fine") as live:
        answer = await live.post(RESPONSES, tools=[{"type": "web_search"}])
        assert answer.headers["x-specguard-ignored"] == "tools[0].web_search"


async def test_what_a_field_may_be_is_written_as_json() -> None:
    async with serving("fine") as live:
        for path, field, value, words in (
            (CHAT, "function_call", {"name": "f"}, 'use "none"'),
            (CHAT, "audio", {"voice": "x"}, "use null"),
            (RESPONSES, "background", True, "use false"),
            (MESSAGES, "tool_choice", "any", "tool_choice: 'any' is no object; use {'type': 'auto'}"),
        ):
            answer = await live.post(path, **{field: value})
            assert answer.status == 400 and words in answer.json["error"]["message"]
