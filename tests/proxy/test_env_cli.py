"""`specguard env` against a live server, and against what is none."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from proxy.cli import main
from proxy.config import ConfigProblem
from proxy.env_cli import ask
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
        ("http://127.0.0.1:1", "nothing answers at http://127.0.0.1:1; start `specguard serve`"),
    ],
)
def test_what_cannot_be_asked_is_told(url: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "claude", "--url", url]) == 2
    printed = capsys.readouterr()
    assert problem in printed.err
    assert printed.out == ""
