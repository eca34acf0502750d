"""Where a client plays against a live server: who asked for what, the client's run as a process, what it left behind.

Must not: change what passes between client and server, or let a client reach this user's configuration.
Invariant: every run has a home of its own, which is empty at its start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from proxy.conversation import ChatRequest
from proxy.incidents import Record

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Visitors:
    """Counts what clients ask the server for. refused: what was posted and answered with an error status."""

    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            # counted on arrival: Codex leaves at the last event, which cancels what would come after it here
            self.asked.append(f"{request.method} {request.path}")
            response = await handler(request)
            if request.method == "POST" and response.status >= 400:
                self.refused.append(f"{request.method} {request.path} {response.status}")
            return response

        return note


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one run: where the client works, and all that it thinks is its user's."""

    root: Path

    @classmethod
    def fresh(cls, root: Path) -> Home:
        """The same folders in every run, so that clients say the same about them."""
        shutil.rmtree(root, ignore_errors=True)
        home = cls(root)
        home.work.mkdir(parents=True)
        home.user.mkdir()
        return home

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def user(self) -> Path:
        return self.root / "user"

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Nothing of this process but where programs are."""
        user = str(self.user)
        return {
            "PATH": os.environ["PATH"],
            "HOME": user,
            "XDG_CONFIG_HOME": f"{user}/.config",
            "XDG_DATA_HOME": f"{user}/.local/share",
            "XDG_STATE_HOME": f"{user}/.local/state",
            "XDG_CACHE_HOME": f"{user}/.cache",
            "TMPDIR": user,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            **more,
        }


@dataclass(frozen=True, slots=True)
class Ran:
    """What a process said, and how it ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Run:
    """What is left of a client's run. heard: what it says of the turn, without what differs from run to run. files:
    names and contents in its folder."""

    ran: Ran
    heard: Sequence[object]
    files: Mapping[str, str]
    asked: Sequence[str]
    requests: Sequence[ChatRequest]
    incidents: Sequence[Record]


async def run(argv: Sequence[str], home: Home, environment: Mapping[str, str]) -> Ran:
    """Runs a program to its end. It and all that it started are gone afterwards, also after LIMIT_S."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=home.work,
        env=home.environment(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
        status = process.returncode
    except TimeoutError:
        out, err, status = b"", b"it did not come to an end", None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return Ran(-1 if status is None else status, out.decode(errors="replace"), err.decode(errors="replace"))


async def settings(client: str, base: str) -> str:
    """What `specguard env` prints, asked as a user asks."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "env", client, "--url", base),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()
