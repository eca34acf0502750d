"""Who still lives, as real processes that are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.incidents.liveness import Presence, may_have_writers

ROOT = Path(__file__).parents[3]
LIMIT_S = 60


@contextmanager
def writer(store: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has settled and waits to be killed."""
    code = (
        "import sys; from pathlib import Path; from proxy.incidents.liveness import Presence; "
        f"presence = Presence(Path({str(store)!r})); print(presence.is_alone(), flush=True); presence.settle(); "
        "print('settled', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == b"settled\n"
        yield process
        process.kill()


def test_a_killed_writer_is_missed(tmp_path: Path) -> None:
    store = tmp_path / "i.sqlite"
    assert not may_have_writers(store)
    with writer(store) as process:
        assert may_have_writers(store)
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        assert not may_have_writers(store)


def test_one_of_two_is_enough(tmp_path: Path) -> None:
    store = tmp_path / "i.sqlite"
    with writer(store) as process:
        presence = Presence(store)
        assert not presence.is_alone()
        presence.settle()
        process.kill()
        process.wait(LIMIT_S)
        assert may_have_writers(store)
        presence.end()
        assert not may_have_writers(store)


def test_asking_does_not_take_the_lock_away(tmp_path: Path) -> None:
    """The reader may be the writer's own process."""
    store = tmp_path / "i.sqlite"
    presence = Presence(store)
    assert presence.is_alone()
    presence.settle()
    assert may_have_writers(store)
    assert may_have_writers(store)
    presence.end()
    assert not may_have_writers(store)
