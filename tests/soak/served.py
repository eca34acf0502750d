"""A real server process on the embedded model, and what it tells about itself.

Must not: reach into the process. Invariant: a sample is what `GET /metrics` says, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
START_S = 120
MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """at: seconds since the server was up. rss: MiB, of the process; caches: MiB, of its sequences. blocks: of Python
    objects. steps: so far, of all responses."""

    at: float
    rss: float
    caches: float
    fds: int
    tasks: int
    blocks: int
    in_flight: int
    running: int
    waiting: int
    steps: int

    @property
    def busy(self) -> int:
        """Responses in any state."""
        return self.in_flight + self.running + self.waiting


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[str]
    port: int
    up: float
    log: Path

    async def sample(self) -> Sample:
        return await asyncio.to_thread(self._sample)

    def _sample(self) -> Sample:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        seen = {name: float(value) for name, value in re.findall(r"^([\w{}=\"]+) (\S+)$", text, re.MULTILINE)}
        return Sample(
            time.monotonic() - self.up,
            seen["process_resident_memory_bytes"] / MiB,
            seen.get('specguard_memory_bytes{part="sequences"}', 0.0) / MiB,
            int(seen["process_open_fds"]),
            int(seen["specguard_tasks"]),
            int(seen["specguard_python_blocks"]),
            int(seen["specguard_in_flight_requests"]),
            int(seen["specguard_running_turns"]),
            int(seen["specguard_waiting_requests"]),
            int(seen["specguard_engine_steps_total"]),
        )


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[Server]:
    """settings: `server__body_s=5`, as in the environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPECGUARD_")}
    given = {"server__port": 0, "incidents__path": str(folder / "incidents.sqlite")} | settings
    environment |= {f"SPECGUARD_{name.upper()}": str(value) for name, value in given.items()}
    log = folder / "log.jsonl"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve"],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+:(\d+)$", line)
            assert found, f"it did not start; {log.read_text()[-2000:]}"
            yield Server(process, int(found[1]), time.monotonic(), log)
        finally:
            process.kill()
