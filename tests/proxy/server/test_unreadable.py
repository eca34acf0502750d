"""What is no HTTP is answered in an API's shape, says what to do, and repeats nothing."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from structlog.testing import capture_logs

from tests.proxy.live import Live, serving

POST = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\n"


async def said(live: Live, sent: bytes) -> tuple[bytes, bytes]:
    """(head, body) of the answer, which must end the connection."""
    host, _, port = live.base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03secret-key\r\n\r\n", "http://"),
        (b"secret-key\r\n\r\n", "no HTTP request"),
        (b"POST /secret-key HTTP/9\r\n\r\n", "no HTTP request"),
        (POST + b"X-A: secret-key" + b"a" * 20_000 + b"\r\n\r\n", "too long"),
        (POST + b"X-A\x00: secret-key\r\n\r\n", "not valid HTTP"),
        (POST + b"Content-Length: secret-key\r\n\r\n", "HTTP"),
        (POST + b"Content-Encoding: zstd\r\nContent-Length: 10\r\n\r\nsecret-key", "content-encoding"),
    ],
)
async def test_a_head_that_cannot_be_read(sent: bytes, words: str) -> None:
    async with serving("fine") as live:
        with capture_logs() as logs:
            head, body = await said(live, sent)
        assert head.startswith(b"HTTP/1.1 400 ") or head.startswith(b"HTTP/1.0 400 ")
        assert b"application/json" in head and b"x-should-retry: false" in head.lower()
        error = orjson.loads(body)["error"]
        assert error["type"] == "invalid_request_error" and words in error["message"]
        assert b"secret-key" not in body and "secret-key" not in repr(logs)
        assert [entry["event"] for entry in logs] == ["request.refused"]
        assert (await live.post("/v1/messages")).status == 200


async def test_chunks_that_are_none_are_told_by_the_route() -> None:
    async with serving("fine") as live:
        head, body = await said(live, POST + b"Transfer-Encoding: chunked\r\n\r\nsecret-key\r\n\r\n")
        assert b" 400 " in head.partition(b"\r\n")[0]
        assert "message" in orjson.loads(body)["error"] and b"secret-key" not in body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/health", "/no/such/path"])
async def test_what_a_client_expects_and_nobody_does_is_told_in_the_api_s_shape(path: str) -> None:
    sent = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: secret-key\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    async with serving("fine") as live:
        head, body = await said(live, sent)
        assert head.startswith(b"HTTP/1.1 417 ") and b"application/json" in head
        assert b"x-request-id: req_" in head.lower() and b"x-should-retry: false" in head.lower()
        told = orjson.loads(body)
        assert told["error"]["type"] == "invalid_request_error"
        assert (told.get("type") == "error") == path.startswith("/v1/messages")
        assert "leave that header out" in told["error"]["message"] and b"secret-key" not in head + body
        assert (await live.post("/v1/messages")).status == 200


@pytest.mark.parametrize("word", [b"100-continue", b"100-Continue "])
async def test_a_client_that_waits_for_leave_to_send_gets_it(word: bytes) -> None:
    async with serving("fine") as live:
        head, _ = await said(
            live,
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: " + word + b"\r\n\r\n",
        )
        assert head == b"HTTP/1.1 100 Continue"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /no/such/path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"PUT /v1/messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: x\r\n\r\n",
        b"no http\r\n\r\n",
    ],
)
async def test_nobody_is_told_what_versions_the_server_runs_on(sent: bytes) -> None:
    async with serving("fine") as live:
        head, body = await said(live, sent)
        assert [line for line in head.lower().split(b"\r\n") if line.startswith(b"server:")] == [b"server: specguard"]
        assert b"aiohttp" not in (head + body).lower()
