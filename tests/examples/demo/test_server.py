"""Starting and stopping the server process: ready, dead on arrival, never ready, and gone afterwards."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from examples.demo.server import Server, ServerFailed

FAKE = (sys.executable, str(Path(__file__).with_name("fake_specguard.py")))
SLEEPS = (sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(60)")


def is_alive(server: Server) -> bool:
    try:
        os.kill(server._process.pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_ready_then_gone(tmp_path: Path) -> None:
    waits: list[float] = []
    with Server(tmp_path / "log", command=FAKE) as server:
        assert await server.ready(waits.append) >= 0
        assert is_alive(server)
    assert waits and not is_alive(server)


async def test_end_of_output_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "no-start")
    expected = pytest.raises(ServerFailed, match=r"status 4:\n  the weights are missing")
    with Server(tmp_path / "log", command=FAKE) as server, expected:
        await server.ready(lambda _: None)


async def test_gives_up_waiting(tmp_path: Path) -> None:
    expected = pytest.raises(ServerFailed, match="not ready after 1 s")
    with Server(tmp_path / "log", command=SLEEPS) as server, expected:
        await server.ready(lambda _: None, limit_s=1.0)
    assert not is_alive(server)


def test_an_exception_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Server(tmp_path / "log", command=SLEEPS) as server:
        raise KeyboardInterrupt
    assert not is_alive(server)


def test_a_deaf_server_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.demo.server.STOP_LIMIT_S", 0.3)
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf = f"{ignore}; print('x', flush=True); time.sleep(60)"
    with Server(tmp_path / "log", command=(sys.executable, "-c", deaf)) as server:
        while "x" not in server.tail():
            time.sleep(0.01)
    assert not is_alive(server)
