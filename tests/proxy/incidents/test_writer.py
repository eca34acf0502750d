"""The writer: records whole or not at all, also when the process is killed in the middle of everything."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from proxy.incidents import IncidentStore, Limits
from proxy.incidents.writer import Writer
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT

ROOT = Path(__file__).parents[3]
LIMIT_S = 100

IN_THE_MIDDLE = """
import asyncio, sys
from proxy import logging
from proxy.incidents import IncidentStore
from proxy.guard.session import GuardedSession
from policies.policy import Policy
from tests.proxy.played import REQUEST
from tests.proxy.scripted import FAST, Script, ScriptedBackend

logging.configure("error")  # to stderr
store = IncidentStore(sys.argv[1])

async def pace():
    if store.list():
        print("open", flush=True)
        await asyncio.sleep(1000)

async def run():
    backend = ScriptedBackend(Script("one two six four five", fast="one two six fxxx", audited="all"), pace=pace)
    async for _ in GuardedSession(REQUEST, backend, Policy(), store, FAST).events():
        store.flush()

asyncio.run(run())
"""
MANY = """
import itertools, sys
from proxy import logging
from dataclasses import replace
from proxy.incidents import IncidentStore, Limits
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT

logging.configure("error")
store = IncidentStore(sys.argv[1], capture=True, limits=Limits(1 << 19, 0))
for i in itertools.count():
    store.opened(replace(INCIDENT, id=f"inc_{i:07d}"), replace(CAPTURE, response=f"{i} " * 5000))
    store.closed(replace(CLOSURE, id=f"inc_{i:07d}"))
    if i % 16 == 0:
        store.flush()
        print(i, flush=True)
"""


def started(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_kill_in_the_middle_of_a_response_leaves_the_incident(tmp_path: Path) -> None:
    path = tmp_path / "i.sqlite"
    with started(IN_THE_MIDDLE, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert [record.state for record in IncidentStore(path).list()] == ["open"]
        process.send_signal(signal.SIGKILL)
        assert process.wait(LIMIT_S) == -signal.SIGKILL
    (record,) = IncidentStore(path).list()
    assert (record.state, record.opened["detector"], record.closed) == ("died", "drift.audit", None)
    assert record.opened["steps"][-1]["mismatch"] is not None
    later = IncidentStore(path)
    later.start()
    later.close()
    assert [event["id"] for _, event in later.events()] == [f"{record.id}/opened", f"{record.id}/died"]
    assert later.list()[0].state == "died"


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_the_writer_writes_leaves_a_readable_file(tmp_path: Path, moment: int) -> None:
    """Also while it makes room: the limit is reached after some tens of incidents."""
    path = tmp_path / "i.sqlite"
    with started(MANY, path) as process:
        assert process.stdout is not None
        last = 0
        while last < 48 * (moment + 1):
            last = int(process.stdout.readline())
        time.sleep(0.003 * moment)  # somewhere between two lines
        process.kill()
        process.wait(LIMIT_S)
    store = IncidentStore(path)
    records = store.list(100_000)
    ids = {int(record.id[4:]) for record in records}
    assert max(ids) >= last, "what was flushed is there"
    assert ids == set(range(min(ids), max(ids) + 1))
    assert [record for record in records if record.closed is None and record.state != "died"] == []
    assert len([record for record in records if record.closed is None]) <= 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.opened(INCIDENT)
    store.close()
    assert store.dropped == 0
    assert path.stat().st_size < 1 << 20
    newest = store.get(records[1].id)
    assert newest is not None and newest.capture is not None
    assert newest.capture["response"].startswith(str(int(records[1].id[4:])))


def test_a_record_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "i.sqlite", Limits())
    writer.write(INCIDENT, None)
    with closing(sqlite3.connect(tmp_path / "i.sqlite")) as connection, connection:
        connection.execute("DELETE FROM records")
        connection.execute("DROP TABLE captures")
    with pytest.raises(sqlite3.Error):
        writer.write(INCIDENT, CAPTURE)
    assert IncidentStore(tmp_path / "i.sqlite").list() == []
    writer.write(INCIDENT, None)
    writer.write(CLOSURE, None)
    writer.close()
    (record,) = IncidentStore(tmp_path / "i.sqlite").list()
    assert record.state == "recovered"
    json.dumps(record.cloud_event())


def test_a_record_that_is_written_is_not_lost_because_there_was_no_room_to_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "i.sqlite", Limits(max_bytes=1))

    def refused(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr("proxy.incidents.writer.make_room", refused)
    writer.write(INCIDENT, None)
    writer.close()
    assert IncidentStore(tmp_path / "i.sqlite").get("inc_1") is not None
