"""`specguard env` against a live server, and against what is none."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from proxy.commands.env import ask
from proxy.commands.main import main
from proxy.configuration.config import ConfigProblem
from tests.proxy.live import serving
from tests.proxy.scripted import ScriptedBackend


async def test_a_running_server_is_asked_for_its_model() -> None:
    async with serving(ScriptedBackend("a")) as server:
        found = await asyncio.to_thread(ask, f"{server.base}/v1")
    assert (found.url, found.model, found.context, found.key) == (server.base, "scripted", 8192, "local")


async def test_another_server_is_told_apart() -> None:
    app = web.Application()

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app.router.add_get("/v1/models", models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        with pytest.raises(ConfigProblem, match="does not answer as a specguard server"):
            await asyncio.to_thread(ask, base)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:1", "is no address; write one such as http://127.0.0.1:8787"),
        ("file:///etc/passwd", "is no address"),
        ("http://127.0.0.1:abc", "is no address"),
        ("http://127.0.0.1:99999", "is no address"),
        ("http://[::1", "is no address"),
        ("http://a b", "is no address"),
        ("http://127.0.0.1:1", "nothing answers at http://127.0.0.1:1; start `specguard serve`"),
    ],
)
def test_what_cannot_be_asked_is_told(url: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "claude", "--url", url]) == 2
    printed = capsys.readouterr()
    assert problem in printed.err
    assert printed.out == ""


async def test_a_server_that_still_loads_gives_no_settings() -> None:
    loaded = asyncio.Event()

    class Slow(ScriptedBackend):
        async def start(self) -> None:
            window, self.info = self.info, replace(self.info, context_window=0)
            await loaded.wait()
            self.info = window

    async with serving(Slow("a"), wait_until_ready=False) as server:
        with pytest.raises(ConfigProblem, match="is still loading its model; ask again when"):
            await asyncio.to_thread(ask, server.base)
        loaded.set()
        await server.service.settled.wait()
        assert (await asyncio.to_thread(ask, server.base)).context == 8192


async def test_what_speaks_another_protocol_is_told_apart() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-some\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigProblem, match="does not answer as a specguard server"):
            await asyncio.to_thread(ask, f"http://127.0.0.1:{port}")


def test_a_key_that_no_header_can_carry_is_told() -> None:
    with pytest.raises(ConfigProblem, match="--key: has characters that no header can carry"):
        ask("http://127.0.0.1:1", "kéy\n")


async def test_no_proxy_stands_between_this_machine_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(ScriptedBackend("a")) as server:
        assert (await asyncio.to_thread(ask, server.base)).model == "scripted"


async def test_a_key_does_not_follow_a_redirect() -> None:
    seen: list[str | None] = []

    async def models(http: web.Request) -> web.Response:
        seen.append(http.headers.get("authorization"))
        raise web.HTTPFound(f"http://localhost:{runner.addresses[0][1]}/elsewhere")

    async def elsewhere(http: web.Request) -> web.Response:
        seen.append(http.headers.get("authorization"))
        return web.json_response({"data": [{"id": "m", "max_model_len": 1}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_get("/elsewhere", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        with pytest.raises(ConfigProblem, match="answers with status 302"):
            await asyncio.to_thread(ask, f"http://127.0.0.1:{runner.addresses[0][1]}", "secret")
    finally:
        await runner.cleanup()
    assert seen == ["Bearer secret"]
