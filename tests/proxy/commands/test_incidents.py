"""`specguard incidents`: what each view prints, from real stores."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from proxy.commands.incidents import since_time
from proxy.commands.main import main
from proxy.configuration.config import ConfigProblem
from proxy.incidents import IncidentStore
from proxy.replays.capture import Capture
from tests.proxy.incidents.samples import CAPTURE, CLOSURE, INCIDENT, JUDGEMENT

ROOT = Path(__file__).parents[3]
LIMIT_S = 60


@pytest.fixture
def store(tmp_path: Path) -> IncidentStore:
    """inc_0 to inc_3: captured; loops and calls in turn; inc_2 judged, inc_3 died while open."""
    store = IncidentStore(tmp_path / "i.sqlite", capture=True)
    for i in range(4):
        detector = "loop.period" if i % 2 else "tool.schema"
        said: dict[str, Any] = {"texts": {"before": "said before"}, "evidence": {"unit": [7003]}}
        store.opened(
            replace(INCIDENT, id=f"inc_{i}", detector=detector, session=f"s{i}", **said),
            CAPTURE,
        )
        if i < 3:
            store.closed(replace(CLOSURE, id=f"inc_{i}"))
    store.judged(replace(JUDGEMENT, id="inc_2"))
    store.close()
    return store


def printed(capsys: pytest.CaptureFixture[str], store: IncidentStore, *arguments: str) -> list[str]:
    assert main(["incidents", *arguments, "--incidents", str(store.path)]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], "3210"),
        (["--detector", "loop.*"], "31"),
        (["--culprit", "kv"], "2"),
        (["--culprit", "speculation", "--detector", "tool.*"], "0"),
        (["--session", "s1"], "1"),
        (["--since", "1h", "--limit", "2"], "32"),
        (["--since", "2999-01-01"], ""),
    ],
)
def test_the_list_can_be_narrowed(
    capsys: pytest.CaptureFixture[str], store: IncidentStore, arguments: list[str], found: str
) -> None:
    ids = [json.loads(line)["id"][-1] for line in printed(capsys, store, "list", "--json", *arguments)]
    assert "".join(ids) == found
    lines = printed(capsys, store, "list", *arguments)
    assert "".join(line.split()[0][-1] for line in lines[1:]) == found
    assert found or lines == ["no incidents"]


def test_the_list_says_who_died(capsys: pytest.CaptureFixture[str], store: IncidentStore) -> None:
    assert [line.split()[-1] for line in printed(capsys, store, "list")[1:]] == ["died", *["recovered"] * 3]


def test_a_page_has_the_judgement_and_json_has_nothing_that_was_said(
    capsys: pytest.CaptureFixture[str], store: IncidentStore
) -> None:
    text = "\n".join(printed(capsys, store, "show", "inc_2"))
    for part in (
        "the compressed KV cache, certain, by running it again",
        "judged by running it again",
        "said before",
        "2 tokens of prompt",
    ):
        assert part in text
    event = "\n".join(printed(capsys, store, "show", "inc_2", "--json"))
    assert json.loads(event)["data"]["judged"]["culprit"] == "kv"
    for said in ("said before", "quiet", "7003"):
        assert said not in event


def test_what_was_captured_can_be_read(
    capsys: pytest.CaptureFixture[str], store: IncidentStore, tmp_path: Path
) -> None:
    shown = json.loads("\n".join(printed(capsys, store, "show", "inc_2", "--capture")))
    assert Capture.parse(shown) == CAPTURE
    bare = IncidentStore(tmp_path / "bare.sqlite")
    bare.opened(INCIDENT, CAPTURE)
    bare.close()
    assert main(["incidents", "show", "inc_1", "--capture", "--incidents", str(bare.path)]) == 2
    assert capsys.readouterr().err.startswith("specguard: nothing was captured with inc_1; that needs")


def test_statistics(capsys: pytest.CaptureFixture[str], store: IncidentStore) -> None:
    counted = json.loads("\n".join(printed(capsys, store, "stats", "--json")))
    assert (counted["incidents"], counted["rewinds"], counted["not_written"]) == (4, 3, 0)
    assert counted["culprit"] == {"speculation": 2, "kv": 1, "not judged": 1}
    assert printed(capsys, store, "stats")[0].startswith("4 incidents, 20")
    assert printed(capsys, store, "stats", "--since", "2999-01-01") == ["no incidents"]


def test_export_is_one_event_a_record(capsys: pytest.CaptureFixture[str], store: IncidentStore) -> None:
    lines = printed(capsys, store, "export")
    events = [json.loads(line) for line in lines]
    assert [event["id"] for event in events] == [
        "inc_0/opened", "inc_0/closed", "inc_1/opened", "inc_1/closed", "inc_2/opened", "inc_2/closed",
        "inc_3/opened", "inc_2/judged",
    ]  # fmt: skip
    assert all(event["specversion"] == "1.0" and event["source"] == "/specguard" for event in events)
    for said in ("said before", "quiet", "7003", "7001"):
        assert said not in "\n".join(lines)
    assert printed(capsys, store, "export", "--after", events[5]["sequence"]) == lines[6:]
    assert printed(capsys, store, "export", "--since", "2999-01-01") == []


def test_export_follows_until_it_is_interrupted(store: IncidentStore) -> None:
    command = [sys.executable, "-m", "proxy", "incidents", "export", "--follow", "--incidents", str(store.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline())["id"] for _ in range(8)]
        store.opened(replace(INCIDENT, id="inc_9"))
        store.flush()
        more = [json.loads(process.stdout.readline())["id"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
    store.close()
    assert len(set(first)) == 8
    assert more == ["inc_3/died", "inc_9/opened"], "a new writer finds what the dead have left"


def test_losses_are_told(capsys: pytest.CaptureFixture[str], store: IncidentStore) -> None:
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("INSERT INTO losses VALUES ('2026-01-02T03:04:05.000Z', 3, 'not written')")
    for view in (["list"], ["stats"], ["export"]):
        assert main(["incidents", *view, "--incidents", str(store.path)]) == 0
        told = capsys.readouterr().err
        assert told == "specguard: 3 record(s) could not be written, the last before 2026-01-02T03:04:05.000Z\n"


@pytest.mark.parametrize("view", ["list", "stats", "export"])
def test_times_that_are_none(capsys: pytest.CaptureFixture[str], store: IncidentStore, view: str) -> None:
    assert main(["incidents", view, "--since", "soon", "--incidents", str(store.path)]) == 2
    assert capsys.readouterr().err.startswith("specguard: --since: 'soon' is no time; write an age as 30m, 12h, 7d")


def test_a_store_of_a_newer_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "newer.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 9")
    assert main(["incidents", "list", "--incidents", str(path)]) == 2
    assert "was written by a newer specguard" in capsys.readouterr().err


def test_unknown_culprits(capsys: pytest.CaptureFixture[str], store: IncidentStore) -> None:
    with pytest.raises(SystemExit):
        main(["incidents", "list", "--culprit", "moon", "--incidents", str(store.path)])
    assert "'speculation'" in capsys.readouterr().err


NOW = datetime(2026, 5, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("", ""),
        ("90s", "2026-05-31T11:58:30.000Z"),
        ("30m", "2026-05-31T11:30:00.000Z"),
        ("12h", "2026-05-31T00:00:00.000Z"),
        ("7d", "2026-05-24T12:00:00.000Z"),
        ("1w", "2026-05-24T12:00:00.000Z"),
        ("2026-05-01T10:00+02:00", "2026-05-01T08:00:00.000Z"),
        ("2026-05-01T10:00Z", "2026-05-01T10:00:00.000Z"),
    ],
)
def test_ages_and_dates(text: str, moment: str) -> None:
    assert since_time(text, NOW) == moment


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_a_date_without_a_zone_is_one_of_those_that_are_printed() -> None:
    assert since_time("2026-05-01T10:00", NOW) == "2026-05-01T10:00:00.000Z"


@pytest.mark.parametrize("text", ["7", "d", "-3d", "7d ", "999999w", "2026-13-01", "yesterday"])
def test_neither_age_nor_date(text: Any) -> None:
    with pytest.raises(ConfigProblem, match="is no time"):
        since_time(text, NOW)


@pytest.mark.parametrize(
    "arguments", [["list", "--limit", "1" * 30], ["export", "--after", "1" * 30], ["export", "--after", "-1"]]
)
def test_numbers_that_no_store_has(
    capsys: pytest.CaptureFixture[str], store: IncidentStore, arguments: list[str]
) -> None:
    assert main(["incidents", *arguments, "--incidents", str(store.path)]) == 2
    assert f"{arguments[1]}: must be from" in capsys.readouterr().err


def test_no_id_is_no_incident(capsys: pytest.CaptureFixture[str], store: IncidentStore) -> None:
    assert main(["incidents", "show", "", "--incidents", str(store.path)]) == 2
    assert "4 incidents begin with ''" in capsys.readouterr().err


def test_what_a_model_wrote_does_not_command_the_terminal(
    capsys: pytest.CaptureFixture[str], store: IncidentStore
) -> None:
    store.opened(replace(INCIDENT, id="inc_9", texts={"before": "a\x1b]0;mine\x07\x1b[2J\tb"}), CAPTURE)
    store.close()
    page = "\n".join(printed(capsys, store, "show", "inc_9"))
    assert r"before: a\x1b]0;mine\x07\x1b[2J\tb" in page
    assert "\x1b" not in page
