"""The incident store: two records each, readers beside the writer, crashes, and what is never stored."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.capture import Capture
from proxy.incidents import IncidentStore
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IncidentStore]:
    store = IncidentStore(tmp_path / "made" / "incidents.sqlite")
    yield store
    store.close()


def test_an_incident_is_opened_and_closed(store: IncidentStore) -> None:
    store.opened(INCIDENT)
    store.closed(CLOSURE)
    store.flush()
    record = store.get("inc_1")
    assert record is not None
    assert record.opened["evidence"] == {"keyword": "required"}
    assert record.closed is not None
    assert (record.closed["culprit"], record.closed["proof"]) == ("speculation", {"compared": 3})


def test_a_store_that_was_never_written_is_empty(store: IncidentStore) -> None:
    assert store.get("inc_1") is None
    assert store.list() == []
    assert not store.path.exists()


def test_listing_is_newest_first(store: IncidentStore) -> None:
    for i in range(5):
        detector = "loop.period" if i % 2 else "tool.schema"
        store.opened(replace(INCIDENT, id=f"inc_{i}", detector=detector))
    store.flush()
    assert [record.id for record in store.list(limit=2)] == ["inc_4", "inc_3"]
    assert [record.id for record in store.list(before="inc_2")] == ["inc_1", "inc_0"]
    assert [record.id for record in store.list(detector="loop.period")] == ["inc_3", "inc_1"]


def test_records_are_never_changed(store: IncidentStore) -> None:
    store.opened(INCIDENT)
    store.opened(replace(INCIDENT, reason="other"))
    store.flush()
    record = store.get("inc_1")
    assert record is not None
    assert record.opened["reason"] == "required"


@pytest.mark.parametrize("keep", [False, True])
def test_what_was_said_is_kept_only_when_asked_for(tmp_path: Path, keep: bool) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=keep)
    store.opened(replace(INCIDENT, texts={"before": "a call"}, evidence={"unit": [7003], "copies": 4}), CAPTURE)
    store.close()
    record = store.get("inc_1")
    assert record is not None
    assert (record.capture is not None) is keep
    assert record.opened.get("texts") == ({"before": "a call"} if keep else None)
    assert record.opened["evidence"] == {"copies": 4} | ({"unit": [7003]} if keep else {"withheld": ["unit"]})
    if record.capture is not None:
        assert Capture.parse(record.capture) == CAPTURE


def test_a_reader_in_another_process_sees_what_is_written(store: IncidentStore) -> None:
    store.opened(INCIDENT)
    store.flush()
    code = f"from proxy.incidents import *; print(len(IncidentStore({str(store.path)!r}).list()))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert answer.stdout == "1\n"


def test_a_crash_leaves_the_opened_record(tmp_path: Path) -> None:
    path = tmp_path / "i.sqlite"
    code = (
        "import os; from tests.proxy.incidents.samples import *; from proxy.incidents import IncidentStore; "
        f"store = IncidentStore({str(path)!r}); store.opened(INCIDENT); store.flush(); os._exit(9)"
    )
    crashed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    assert crashed.returncode == 9
    record = IncidentStore(path).get("inc_1")
    assert record is not None
    assert record.closed is None


def test_writing_never_waits_for_the_disk(store: IncidentStore) -> None:
    """Another process holds the write lock; the session goes on, and the record is there afterwards."""
    store.opened(INCIDENT)
    store.flush()
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        store.opened(replace(INCIDENT, id="inc_2"))
        assert store.get("inc_2") is None
        other.execute("COMMIT")
    other.close()
    store.flush()
    assert store.get("inc_2") is not None


def test_a_disk_that_refuses_costs_the_record_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = IncidentStore(tmp_path / "file" / "i.sqlite")
    store.opened(INCIDENT)
    store.flush()
    assert store.dropped == 1
    store.close()


def test_closing_flushes_twice_is_harmless_and_the_store_goes_on(store: IncidentStore) -> None:
    store.opened(INCIDENT)
    store.close()
    store.close()
    assert store.get("inc_1") is not None
    store.closed(CLOSURE)
    store.close()
    record = store.get("inc_1")
    assert record is not None
    assert record.closed is not None
    assert not [thread for thread in threading.enumerate() if thread.name == "incidents"]
