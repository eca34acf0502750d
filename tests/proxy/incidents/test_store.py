"""The incident store: two records each, readers beside the writer, crashes, and what is never stored."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.incidents import Closure, Incident, IncidentStore, Judgement
from proxy.incidents.writer import Writer
from proxy.replays.capture import Capture
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT, JUDGEMENT, ROW


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


def test_what_comes_while_the_store_is_closed_is_written_and_holds_nothing_up(
    store: IncidentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay may judge while the server shuts down."""
    begun, gate, write = threading.Event(), threading.Event(), Writer.write

    def slowly(writer: Writer, record: Incident | Closure | Judgement, *rest: Any) -> None:
        begun.set()
        gate.wait(30)
        write(writer, record, *rest)

    monkeypatch.setattr(Writer, "write", slowly)
    store.opened(INCIDENT)
    assert begun.wait(30)
    closing = threading.Thread(target=store.close, daemon=True)
    closing.start()
    while store._writer is not None:
        closing.join(0.01)
    store.closed(CLOSURE)
    gate.set()
    closing.join(30)
    assert not closing.is_alive()
    store.close()
    record = store.get("inc_1")
    assert record is not None
    assert record.state == "recovered"


def test_a_full_queue_costs_records_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk stands still: who writes does not wait, and what was lost is told with the next record."""
    monkeypatch.setattr("proxy.incidents.store._QUEUED", 8)
    store = IncidentStore(tmp_path / "i.sqlite")
    store.opened(replace(INCIDENT, id="inc_0"))
    store.flush()
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for i in range(1, 40):
            store.opened(replace(INCIDENT, id=f"inc_{i}"))
        assert 30 <= store.dropped <= 31
        other.execute("COMMIT")
    other.close()
    store.flush()
    store.opened(replace(INCIDENT, id="inc_last"))
    store.close()
    count, last = store.losses()
    assert count == store.dropped
    assert last > "2026"
    assert len(store.list()) == 41 - count


def test_captures_that_wait_for_the_disk_are_few(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=True)
    store.opened(replace(INCIDENT, id="inc_0"))
    store.flush()
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        for i in range(1, 100):
            store.opened(replace(INCIDENT, id=f"inc_{i}"), CAPTURE)
        other.execute("COMMIT")
    other.close()
    store.flush()
    store.opened(replace(INCIDENT, id="inc_last"), CAPTURE)
    store.close()
    assert store.dropped == 0
    captured = [record.id for record in store.list(200) if getattr(store.get(record.id), "capture", None)]
    assert captured == ["inc_last", *sorted((f"inc_{i}" for i in range(1, 65)), reverse=True)]


def test_a_file_that_was_taken_away_is_made_again(store: IncidentStore) -> None:
    store.opened(INCIDENT)
    store.flush()
    for file in store.path.parent.iterdir():
        file.unlink()
    store.opened(replace(INCIDENT, id="inc_2"))
    store.flush()
    assert [record.id for record in store.list()] == ["inc_2"]
    assert store.list()[0].state == "open"


def test_a_record_that_cannot_be_written_does_not_end_the_writer(store: IncidentStore) -> None:
    nested: dict[str, object] = {}
    for _ in range(100_000):
        nested = {"a": nested}
    store.opened(replace(INCIDENT, audits=nested))
    store.opened(replace(INCIDENT, id="inc_2", session="\ud800"))
    store.flush()
    assert store.dropped == 1
    assert [record.id for record in store.list()] == ["inc_2"]


def test_a_redacted_capture_takes_the_tokens_out_of_the_evidence_too(tmp_path: Path) -> None:
    store = IncidentStore(tmp_path / "i.sqlite", capture=True)
    store.opened(replace(INCIDENT, evidence={"unit": [7]}), replace(CAPTURE, response="api_key: sk-0123456789abcdefg"))
    said = replace(CAPTURE, response="in other words hunter22")
    store.opened(replace(INCIDENT, id="inc_2", texts={"before": "password: hunter22"}), said)
    store.close()
    first, second = store.get("inc_1"), store.get("inc_2")
    assert first is not None and second is not None and first.capture is not None
    assert (first.capture["redacted"], first.capture["prompt_ids"]) == (["api_key"], [])
    assert first.opened["evidence"] == {"withheld": ["unit"]}
    assert "texts" not in second.opened
    assert second.capture is not None
    assert second.capture["response"] == "in other words [redacted:password]"
    assert second.capture["kept_ids"] == []


def test_a_closure_never_holds_tokens(tmp_path: Path) -> None:
    """What was decoded after the trip was not searched for secrets."""
    store = IncidentStore(tmp_path / "i.sqlite", capture=True)
    store.opened(INCIDENT, CAPTURE)
    store.closed(replace(CLOSURE, proof={"compared": 2, "redecoded": [7006]}))
    store.close()
    record = store.get("inc_1")
    assert record is not None and record.closed is not None
    assert record.closed["proof"] == {"compared": 2, "withheld": ["redecoded"]}


def test_what_closes_nothing_is_not_kept(store: IncidentStore) -> None:
    store.closed(CLOSURE)
    store.judged(JUDGEMENT)
    store.flush()
    assert list(store.events()) == []


def test_a_judgement_is_written_once(store: IncidentStore) -> None:
    store.opened(INCIDENT)
    store.closed(CLOSURE)
    store.judged(JUDGEMENT)
    store.judged(replace(JUDGEMENT, culprit="model"))
    store.flush()
    record = store.get("inc_1")
    assert record is not None and record.judged is not None
    assert (record.culprit, record.judged["axes"]) == ("kv", [ROW])
