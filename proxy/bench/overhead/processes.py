"""The processes of the benchmark: how one tells its port and its processor time, and that none outlives the run.

Must not: measure. Invariant: a process that was started is over when its context ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from aiohttp import web

START_S = 60.0


class NotStarted(Exception):
    """A process did not come up; the message says what it said last."""


async def cpu(_: web.Request) -> web.Response:
    """`GET /cpu`: the processor seconds that this process has used."""
    return web.json_response(time.process_time())


async def serve_until_told(runner: web.AppRunner) -> None:
    """Serves on a free port of loopback, tells it on standard output, and ends when standard input does."""
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=512).start()
        print(f"PORT {runner.addresses[0][1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def module(name: str, *arguments: str) -> AsyncIterator[str]:
    """A module of ours as a process; yields its base URL. Raises NotStarted."""
    command = [sys.executable, "-m", name, *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    try:
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
        if not line.startswith(b"PORT "):
            raise NotStarted(f"{name} did not start: {line.decode('utf-8', 'replace').strip() or 'it said nothing'}")
        yield f"http://127.0.0.1:{int(line.split()[1])}"
    finally:
        await ended(process)


async def ended(process: asyncio.subprocess.Process, patience_s: float = 10.0) -> None:
    """Asks, then insists."""
    if process.stdin is not None:
        process.stdin.close()
    for insist in (None, process.terminate, process.kill):
        if insist is not None:
            with suppress(ProcessLookupError):
                insist()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience_s)
            return


async def command(arguments: Sequence[str], environment: dict[str, str], log: int) -> asyncio.subprocess.Process:
    """Somebody else's program. log: file descriptor for what it says. Raises NotStarted."""
    try:
        return await asyncio.create_subprocess_exec(*arguments, env=environment, stdout=log, stderr=log)
    except OSError as error:
        raise NotStarted(f"{arguments[0]} cannot be run: {error.strerror or error}") from None
