"""The breakers' file: what comes back from it, also after a crash, and what happens to one that cannot be read."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from policies.accusation import CERTAIN, LIKELY, Accusation
from policies.breaker import Key, Record, Trip
from proxy.trust.store import MAX_BYTES, TrustFileProblem, TrustStore, beside, read, write

KEY = Key("f00d", "mtp+ngram/k4v4", 2, "qwen_xml")
TRIPS = (
    Trip("inc_1", 1.5, 5000, Accusation("kv", LIKELY)),
    Trip("inc_2", 2.5, 6000, Accusation("speculation", CERTAIN)),
)
RECORDS = {KEY: Record("open", TRIPS, 99.5, 3.5, 2, True), Key("f00d", "ngram/full", 7, "qwen_xml"): Record()}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "trust.json"
    write(path, RECORDS)
    assert read(path) == RECORDS
    assert json.loads(path.read_text())["version"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["trust.json"], "no draft is left"


def test_nothing_is_known_without_a_file(tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "trust.json")
    assert store.load() == {} and not store.path.exists()
    assert beside(tmp_path / "specguard-incidents.sqlite").name == "specguard-incidents.trust.json"


def test_the_last_of_several_states_is_what_stays(tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "trust.json")
    for number in range(50):
        store.save({KEY: Record("open", until=float(number))})
    store.flush()
    assert read(store.path)[KEY].until == 49
    store.close()
    store.close()
    store.save(RECORDS)
    store.close()
    assert read(store.path) == RECORDS


def corrupt(path: Path) -> dict[str, bytes]:
    write(path, RECORDS)
    good = path.read_bytes()
    return {
        "cut": good[: len(good) // 2],
        "empty": b"",
        "binary": b"\x00\xff" * 100,
        "other": b'{"format": "specguard.trust", "version": 2, "records": []}',
        "bucket": good.replace(b'"4-16k"', b'"4-17k"'),
        "state": good.replace(b'"state": "open"', b'"state": "ajar"'),
        "extra": good.replace(b'"openings": 2', b'"openings": 2, "x": 1'),
        "number": good.replace(b"99.5", b"NaN"),
        "large": b" " * (MAX_BYTES + 1),
    }


@pytest.mark.parametrize("kind", ["cut", "empty", "binary", "other", "bucket", "state", "extra", "number", "large"])
def test_a_file_that_cannot_be_read_is_set_aside_with_a_clear_line(tmp_path: Path, kind: str) -> None:
    store = TrustStore(tmp_path / "trust.json")
    data = corrupt(store.path)[kind]
    store.path.write_bytes(data)
    with pytest.raises(TrustFileProblem):
        read(store.path)
    with capture_logs() as logs:
        assert store.load() == {}
    (aside,) = [p for p in tmp_path.iterdir() if "unreadable" in p.name]
    assert aside.read_bytes() == data and not store.path.exists()
    assert [(line["event"], line["log_level"], line["set_aside"]) for line in logs] == [
        ("trust.unreadable", "error", str(aside))
    ]
    store.save(RECORDS)
    store.close()
    assert read(store.path) == RECORDS


def test_a_folder_in_its_place_is_no_crash_either(tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "trust.json")
    store.path.mkdir()
    with capture_logs() as logs:
        assert store.load() == {}
    assert logs[0]["event"] == "trust.unreadable"


def test_a_file_that_cannot_be_written_is_told_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = TrustStore(tmp_path / "file" / "trust.json")
    with capture_logs() as logs:
        store.save(RECORDS)
        store.flush()
        store.save(RECORDS)
        store.close()
    assert {line["event"] for line in logs} == {"trust.not_saved"}


def test_changes_by_others_are_noticed_and_own_ones_are_not(tmp_path: Path) -> None:
    store = TrustStore(tmp_path / "trust.json")
    store.load()
    assert not store.changed_elsewhere()
    store.save(RECORDS)
    store.flush()
    assert not store.changed_elsewhere()
    write(store.path, {})
    assert store.changed_elsewhere()
    assert store.load() == {} and not store.changed_elsewhere()
    store.path.unlink()
    assert store.changed_elsewhere()
    store.close()


def test_what_is_being_written_outlives_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TrustStore(tmp_path / "trust.json")
    store.load()
    replaces = os.replace

    def meanwhile(draft: Path, path: Path) -> None:
        store.load()
        replaces(draft, path)

    monkeypatch.setattr(os, "replace", meanwhile)
    with capture_logs() as logs:
        store.save(RECORDS)
        store.close()
    assert not logs and read(store.path) == RECORDS


WRITER = """
import sys
from pathlib import Path
from policies.breaker import Key, Record, Trip
from policies.accusation import Accusation
from proxy.trust.store import TrustStore
store, number = TrustStore(Path(sys.argv[1])), 0
while True:
    number += 1
    trips = tuple(Trip(f"inc_{number}_{i}", float(number), i, Accusation("kv", 1.0)) for i in range(30))
    store.save({Key("f00d", f"mode{k}", 0, "qwen_xml"): Record("open", trips, float(number)) for k in range(20)})
    store.flush()
    print(number, flush=True)
"""


def test_kill_9_at_any_moment_leaves_a_whole_state(tmp_path: Path) -> None:
    path, rng = tmp_path / "trust.json", random.Random(7)
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        flushed = [int(writer.stdout.readline()) for _ in range(rng.randrange(1, 6))][-1]
        time.sleep(rng.random() / 100)  # into the next write
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        records = read(path)
        assert len(records) == 20 and len({record.until for record in records.values()}) == 1, "one state, not two"
        assert all(len(record.trips) == 30 for record in records.values())
        assert next(iter(records.values())).until >= flushed, "what was flushed is there"
    (tmp_path / ".trust.json.99-99").write_text("half a draft")
    TrustStore(path).load()
    assert [p.name for p in tmp_path.iterdir()] == ["trust.json"]
