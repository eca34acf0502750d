"""Processes tell their port and end with their context; one that does not come up is explained."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest

from proxy.bench.overhead.processes import NotStarted, command, ended, module


async def test_a_module_serves_while_its_context_lasts() -> None:
    async with aiohttp.ClientSession() as http:
        async with module("proxy.bench.overhead.source", "--gap-s", "0") as base:
            response = await http.post(f"{base}/v1/chat/completions", data=b"{}")
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(base)


async def test_what_does_not_start_is_explained(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text("{}")
    with pytest.raises(NotStarted, match=r"json.tool did not start: \{\}"):
        async with module("json.tool", str(tmp_path / "some.json")):
            pass
    with pytest.raises(NotStarted, match="there-is-none cannot be run: No such file"):
        await command(["there-is-none"], {}, sys.stderr.fileno())


async def test_who_does_not_listen_is_ended_all_the_same() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", deaf, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    await process.stdout.readline()
    await ended(process, patience_s=0.2)
    assert process.returncode == -9
