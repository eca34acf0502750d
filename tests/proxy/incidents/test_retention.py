"""Limits: what goes first, that the file really shrinks, and that nothing of what went can be read from it."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from proxy.incidents import IncidentStore, Limits
from proxy.incidents.database import open_to_write, packed
from proxy.incidents.retention import Removed, is_over, make_room
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT

MIB = 1 << 20
BIG = replace(CAPTURE, prompt_ids=tuple(random.Random(1).choices(range(150_000), k=20_000)))
CAPTURE_BYTES = len(packed(BIG.plain()))


def fill(store: IncidentStore, count: int, **changes: object) -> None:
    for i in range(count):
        incident = replace(INCIDENT, id=f"inc_{i:04d}", **changes)  # type: ignore[arg-type]
        store.opened(incident, BIG)
        store.closed(replace(CLOSURE, id=incident.id))
        store.flush()


def with_captures(store: IncidentStore) -> list[str]:
    records = [store.get(record.id) for record in store.list(10_000)]
    return [record.id for record in records if record is not None and record.capture is not None]


def test_captures_go_first_and_the_oldest_of_them(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=True, limits=Limits(MIB, 0))
    fill(store, 60)
    assert store.path.stat().st_size <= MIB
    store.close()
    assert store.path.stat().st_size <= MIB
    assert len(store.list(100)) == 60
    kept = with_captures(store)
    assert 0.7 * MIB < len(kept) * CAPTURE_BYTES < MIB, "no more is taken out than must be"
    assert kept == [f"inc_{i:04d}" for i in range(59, 59 - len(kept), -1)]
    assert store.dropped == 0


def test_then_incidents_go_the_oldest_first(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=False, limits=Limits(MIB // 4, 0))
    fill(store, 200, evidence={f"number_{i}": i for i in range(100)})
    store.close()
    assert store.path.stat().st_size <= MIB // 4
    left = [record.id for record in store.list(1000)]
    assert 20 < len(left) < 200
    assert left == [f"inc_{i:04d}" for i in range(199, 199 - len(left), -1)]
    assert all(record.closed is not None for record in store.list(1000)), "an incident goes with all its records"


def test_age(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=True)
    fill(store, 12)
    store.close()
    size = store.path.stat().st_size
    with closing(open_to_write(store.path, str)) as connection:
        old = (datetime.now(UTC) - timedelta(days=31)).isoformat()
        connection.execute("UPDATE records SET time = ? WHERE incident < 'inc_0010'", (old,))
        connection.execute("UPDATE records SET time = ? WHERE incident = 'inc_0010' AND kind = 'closed'", (old,))
        assert make_room(connection, Limits(0, 0), datetime.now(UTC)) == Removed(0, 0)
        assert make_room(connection, Limits(0, 30), datetime.now(UTC)) == Removed(10, 10)
        assert make_room(connection, Limits(0, 30), datetime.now(UTC)) == Removed(0, 0)
    assert with_captures(store) == ["inc_0011", "inc_0010"]
    assert store.path.stat().st_size < size / 3


def test_a_server_that_starts_looks_after_the_file(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=True)
    fill(store, 4)
    store.close()
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE records SET time = '2020-01-01T00:00:00.000Z' WHERE incident < 'inc_0002'")
    later = IncidentStore(store.path)
    later.start()
    later.close()
    assert [record.id for record in later.list()] == ["inc_0003", "inc_0002"]


def test_what_was_removed_cannot_be_read_from_the_file(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", limits=Limits(MIB // 4, 0))
    fill(store, 200, session="s" * 500)
    store.opened(replace(INCIDENT, id="inc_9999", session="t"))
    store.close()
    gone = {f"inc_{i:04d}" for i in range(200)} - {record.id for record in store.list(1000)}
    assert len(gone) > 50
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        assert not [name for name in gone if name.encode() in data], file.name


def test_a_limit_of_0_is_none(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=True, limits=Limits(0, 0))
    fill(store, 20)
    store.close()
    assert len(with_captures(store)) == 20
    with closing(open_to_write(store.path, str)) as connection:
        assert not is_over(connection, Limits(0, 0))
        assert is_over(connection, Limits(1, 0))
