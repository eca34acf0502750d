"""A server process over scripted responses, to send signals to, and plain clients for it.

Must not: load torch, or share anything with the process but its port, its output and its files.
Invariant: when the context ends, so has the process.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
MAIN = """
import asyncio, json, sys
from proxy.configuration.config import Config
from proxy.server.serve import serve
from tests.proxy.scripted import Script, ScriptedBackend

given = json.loads(sys.argv[1])

async def pace():
    await asyncio.sleep(given["pause_s"])

class Backend(ScriptedBackend):
    async def stop(self):
        await asyncio.sleep(given["stop_s"])

backend = Backend(*(Script(**script) for script in given["scripts"]), pace=pace)
sys.exit(serve(Config.model_validate(given["config"]), lambda config: backend))
"""


@dataclass(frozen=True, slots=True)
class Process:
    """port: that it listens on."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request, read to its end. Status, headers in small letters, body."""
        with self.begin(method, path, body, **headers) as response:
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    @contextmanager
    def begin(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """One request, of which the head was read."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            client.request(method, path, None if body is None else json.dumps(body), names)
            yield client.getresponse()
        finally:
            client.close()

    def log_until(self, event: str) -> dict[str, Any]:
        """The next line of the log that tells of such an event."""
        assert self.process.stderr is not None
        while line := self.process.stderr.readline():
            if line.startswith("{") and (found := json.loads(line))["event"] == event:
                return dict(found)
        raise AssertionError(f"the server ended and told nothing of {event}")


def rest_of(response: http.client.HTTPResponse) -> tuple[bytes, bool]:
    """What comes until the connection ends, and whether the body was whole."""
    seen = bytearray()
    try:
        while chunk := response.read1(65536):
            seen += chunk
    except (http.client.HTTPException, ConnectionError, ValueError):  # the last one for a chunk that was cut
        return bytes(seen), False
    return bytes(seen), response.isclosed() or not response.length


@contextmanager
def scripted(
    folder: Path,
    *scripts: dict[str, Any],
    pause_s: float = 0.0,
    stop_s: float = 0.0,
    extra: Mapping[str, str] = MappingProxyType({}),
    **sections: Any,
) -> Iterator[Process]:
    """scripts: fields of `Script`. pause_s: before every step. stop_s: that the engine takes to end. extra: of the
    environment. sections: of the configuration."""
    config = {"incidents": {"path": str(folder / "incidents.sqlite")}} | sections
    config["server"] = {"port": 0} | config.get("server", {})
    given = json.dumps({"config": config, "scripts": scripts, "pause_s": pause_s, "stop_s": stop_s})
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, given],
        cwd=ROOT,
        env={**os.environ, **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+:(\d+)$", line)
            assert found, f"it did not start: {line}{process.stderr.read()}"
            yield Process(process, int(found[1]))
        finally:
            process.kill()


def datagram_socket(path: Path) -> socket.socket:
    """Where a service manager would listen."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(path))
    listening.settimeout(LIMIT_S)
    return listening
