"""LiteLLM is found where it is said to be, measured only once it answers, and its silence is explained."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.bench.overhead import peer
from proxy.bench.overhead.bodies import SIZES, body_of
from proxy.bench.overhead.processes import NotStarted, module

PROXY = """\
#!{python}
# What LiteLLM does as far as the benchmark can see: reads its configuration, forwards, streams.
import re, sys
import aiohttp
from aiohttp import web

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
base = re.search('api_base: "([^"]+)"', open(flags["--config"]).read())[1]

async def forward(http):
    async with aiohttp.ClientSession() as session:
        async with session.post(base + "/chat/completions", data=await http.read()) as answer:
            return web.Response(body=await answer.read(), content_type="text/event-stream")

app = web.Application()
app.router.add_post("/v1/chat/completions", forward)
web.run_app(app, host=flags["--host"], port=int(flags["--port"]), print=None)
"""


def program(folder: Path, text: str) -> str:
    path = folder / "litellm"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_it_is_there_when_it_has_answered_and_gone_afterwards(tmp_path: Path) -> None:
    path = program(tmp_path, PROXY.format(python=sys.executable))
    async with module("proxy.bench.overhead.source", "--gap-s", "0") as origin, aiohttp.ClientSession() as http:
        async with peer.litellm(path, origin, body_of(SIZES["1 kB"])) as base:
            answer = await http.post(f"{base}/v1/chat/completions", data=b"{}")
            assert "harbour" in await answer.text()
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(base)


async def test_one_that_ends_is_explained(tmp_path: Path) -> None:
    path = program(tmp_path, "#!/bin/sh\necho one\necho two >&2\nexit 3\n")
    with pytest.raises(NotStarted, match=r"does not serve \(no answer\); its last line: two"):
        async with peer.litellm(path, "http://127.0.0.1:1", b"{}"):
            pass


def test_what_is_no_program_is_not_found(tmp_path: Path) -> None:
    assert peer.found(str(tmp_path / "none")) is None
    assert peer.found(program(tmp_path, "#!/bin/sh\n")) == str(tmp_path / "litellm")


def test_the_version_comes_from_its_environment(tmp_path: Path) -> None:
    command = str(tmp_path / "bin" / "litellm")
    assert peer.version_of(command) == "?"
    (tmp_path / "lib" / "python3.11" / "site-packages" / "litellm-1.2.3.dist-info").mkdir(parents=True)
    assert peer.version_of(command) == "1.2.3"
