"""The real server as a child process: started on a free port, waited for, and never left behind.

Must not: import the server's code; the demo sees what a user would see.
Invariant: after the `with` block, however it was left, the child process is gone.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

COMMAND = (sys.executable, "-c", "import sys; from proxy.commands.main import main; sys.exit(main())")
"""What the installed `specguard` script does, also where only the source tree is there."""
START_LIMIT_S = 90.0
STOP_LIMIT_S = 10.0
TAIL_LINES = 25

OnWait = Callable[[float], None]


class ServerFailed(Exception):
    """The server did not become ready or failed later; the message holds the end of its output."""


class Server:
    """`specguard serve` with options; `base_url` ends in /v1."""

    def __init__(self, log: Path, *options: str, command: tuple[str, ...] = COMMAND) -> None:
        port = free_port()
        self._log = log
        self._address = f"http://127.0.0.1:{port}"
        self._command = [*command, "serve", "--host", "127.0.0.1", "--port", str(port), *options]

    @property
    def base_url(self) -> str:
        return f"{self._address}/v1"

    def __enter__(self) -> Server:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C goes to the demo alone, which then stops the server in order
            )
        atexit.register(self._kill)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_LIMIT_S)
        self._kill()
        atexit.unregister(self._kill)

    async def ready(self, on_wait: OnWait, limit_s: float = START_LIMIT_S) -> float:
        """Waits for /ready and returns the seconds it took; `on_wait` is told how many have passed."""
        started = time.monotonic()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while (waited := time.monotonic() - started) < limit_s:
                on_wait(waited)
                if (status := self._process.poll()) is not None:
                    raise ServerFailed(f"the server ended with status {status}:\n{self.tail()}")
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.get(f"{self._address}/ready") as response:
                        if response.status == 200:
                            return time.monotonic() - started
                await asyncio.sleep(0.1)
        raise ServerFailed(f"the server was not ready after {limit_s:.0f} s:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines that the server printed."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines) or "  (it printed nothing)"

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
