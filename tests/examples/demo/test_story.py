"""The whole demo against a stand-in for the `specguard` command: what it shows, and when it fails."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo.server import ServerFailed
from examples.demo.story import TASKS, Story

FAKE = (sys.executable, str(Path(__file__).with_name("fake_specguard.py")))


async def tell(folder: Path) -> tuple[list[str], str]:
    """Returns the claims that did not hold and what was shown."""
    out = io.StringIO()
    checks = await Story(Console(file=out, width=120), TASKS / "order", folder, FAKE).tell()
    return [check.claim for check in checks if not check.held], out.getvalue()


async def test_all_holds(tmp_path: Path) -> None:
    failed, shown = await tell(tmp_path)
    assert failed == []
    for expected in (
        "return cost - 5",
        "+ return cost + 5",
        "2 passed",
        "the guard stepped in (inc_TEST)",
        "inc_TEST blames speculation",
        "identical: 16 tokens in 4 turns",
        "75% of 16 drafted tokens accepted",
    ):
        assert expected in shown
    assert "\x1b" not in shown
    assert "cost - 5" in (TASKS / "order" / "order.py").read_text(), "the original stays broken"


@pytest.mark.parametrize(
    ("fault", "claim"),
    [("other-token", "the fault changed no token"), ("other-blame", "speculation was blamed")],
)
async def test_a_broken_promise_is_seen(
    fault: str, claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", fault)
    failed, shown = await tell(tmp_path)
    assert failed == [claim]
    assert "NO" in shown


async def test_server_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "dies")
    with pytest.raises(ServerFailed, match="connection"):
        await tell(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_server(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, kill or a closed terminal while the server starts: the demo ends and its child is gone."""
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = (
        "import sys, examples.demo.story as story, examples.demo.__main__ as main\n"
        f"story.Story.__init__.__defaults__ = ((sys.executable, '-c', {child!r}),)\n"
        "sys.argv = ['demo']\nsys.exit(main.main())"
    )
    demo = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline and demo.poll() is None
        time.sleep(0.05)
    demo.send_signal(number)
    shown, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Stopped" in shown
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
