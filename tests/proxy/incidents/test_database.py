"""The file: made private, brought up from version 1 in one piece, refused where it is not ours."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.incidents import IncidentStore, StoreProblem
from proxy.incidents.database import open_to_write, packed, unpacked
from tests.proxy.incidents.samples import CLOSURE, INCIDENT

ROOT = Path(__file__).parents[3]
VERSION_1 = """
PRAGMA journal_mode = WAL;
CREATE TABLE records (
    incident TEXT NOT NULL, kind TEXT NOT NULL, time TEXT NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (incident, kind)
) WITHOUT ROWID;
CREATE TABLE prompts (incident TEXT PRIMARY KEY, prompt TEXT NOT NULL);
PRAGMA user_version = 1;
"""
SECRET = "sk-0123456789abcdefghij"
PROMPT = json.dumps({"messages": [{"role": "user", "text": f"use {SECRET} please"}]})


def query(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def _ago(seconds: int) -> str:
    return f"{(datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec='milliseconds')[:23]}Z"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of version 1: inc_1 closed and with its prompt, inc_2 open."""
    path = tmp_path / "old.sqlite"
    opened, closed = json.dumps(asdict(INCIDENT)), json.dumps(asdict(CLOSURE))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(VERSION_1)
        insert = "INSERT INTO records VALUES (?, ?, ?, ?)"
        connection.execute(insert, ("inc_1", "opened", _ago(5), opened))
        connection.execute(insert, ("inc_2", "opened", _ago(3), opened))
        connection.execute(insert, ("inc_1", "closed", _ago(4), closed))
        connection.execute("INSERT INTO prompts VALUES (?, ?)", ("inc_1", PROMPT))
    return path


def test_a_new_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "new.sqlite")
    store.opened(INCIDENT)
    store.flush()
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file.name
    store.close()
    assert query(store.path, "PRAGMA user_version") == [(2,)]
    assert query(store.path, "PRAGMA auto_vacuum") == [(2,)]


def test_version_1_is_read_as_it_is(old: Path) -> None:
    before = old.read_bytes()
    store = IncidentStore(old)
    assert [record.id for record in store.list()] == ["inc_2", "inc_1"]
    first = store.get("inc_1")
    assert first is not None
    assert (first.culprit, first.capture) == ("speculation", {"prompt": PROMPT.replace(SECRET, "[redacted:api_key]")})
    assert store.losses() == (0, "")
    with pytest.raises(StoreProblem, match="is of version 1; start the server on it once"):
        list(store.events())
    assert old.read_bytes() == before


def test_version_1_becomes_version_2_with_the_first_write(old: Path) -> None:
    store = IncidentStore(old)
    store.closed(CLOSURE)
    store.close()
    assert query(old, "PRAGMA user_version") == [(2,)]
    assert query(old, "PRAGMA auto_vacuum") == [(2,)]
    ids = [event["id"] for _, event in store.events()]
    assert ids == ["inc_1/opened", "inc_1/closed", "inc_2/opened", "inc_2/died"]
    first, second = store.get("inc_1"), store.get("inc_2")
    assert first is not None and second is not None
    assert first.opened == json.loads(json.dumps(asdict(INCIDENT)))
    assert (first.state, second.state) == ("recovered", "died")
    assert first.capture == {"prompt": PROMPT.replace(SECRET, "[redacted:api_key]")}
    assert all(SECRET.encode() not in file.read_bytes() for file in old.parent.iterdir())


def test_an_upgrade_that_fails_changes_nothing(old: Path) -> None:
    def fails(_: str) -> str:
        raise ValueError

    with pytest.raises(sqlite3.Error):
        open_to_write(old, fails)
    assert query(old, "PRAGMA user_version") == [(1,)]
    assert len(IncidentStore(old).list()) == 2
    open_to_write(old, str).close()
    assert len(IncidentStore(old).list()) == 2


def test_two_processes_may_upgrade_at_once(old: Path) -> None:
    code = (
        "from proxy.incidents import IncidentStore; from tests.proxy.incidents.samples import *; import sys; "
        f"store = IncidentStore({str(old)!r}); store.opened(INCIDENT); store.close(); sys.exit(store.dropped)"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert len(IncidentStore(old).list()) == 2


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    newer, other = tmp_path / "newer.sqlite", tmp_path / "other.sqlite"
    for path, statement in ((newer, "PRAGMA user_version = 3"), (other, "CREATE TABLE records (a)")):
        query(path, statement)
        before = path.read_bytes()
        store = IncidentStore(path)
        store.opened(INCIDENT)
        store.close()
        assert store.dropped == 1
        assert path.read_bytes() == before
    with pytest.raises(StoreProblem, match="was written by a newer specguard"):
        IncidentStore(newer).list()
    with pytest.raises(StoreProblem, match="the database of another program"):
        IncidentStore(other).list()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5))
def test_a_capture_comes_back_equal(data: dict[str, Any]) -> None:
    assert unpacked(packed(data)) == data


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 9000])
def test_a_capture_may_be_long_and_hold_anything_that_a_text_can(count: int) -> None:
    data = {"text": "\ud800 \0 €", "ids": tuple(range(count)), "more": [{"empty": {}, "none": []}]}
    assert unpacked(packed(data)) == {**data, "ids": list(range(count))}
