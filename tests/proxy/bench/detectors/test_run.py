"""The detectors' benchmark: every bar is reported, and exactly the missed ones are named. Times are not judged here."""

from __future__ import annotations

import bisect
import json
from pathlib import Path

import pytest

from detectors.finding import Grade
from proxy.bench.detectors import Corpus, corpus, detection, drift, false_alarms, loops, measure, run, survey, validator
from proxy.bench.detectors.survey import Survey
from proxy.bench.detectors.validator import Limit
from proxy.bench.report import Bar, Table
from proxy.commands.main import main


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little of everything; the validator's bars are made up."""
    monkeypatch.setattr(run, "SEEDS", 1)
    monkeypatch.setattr(detection, "PERIODS", (8,))
    monkeypatch.setattr(detection.run_trials, "__defaults__", ((8,), None))
    monkeypatch.setattr(false_alarms.count_traps, "__defaults__", (1,))
    monkeypatch.setattr(loops, "ROUNDS", 1)
    monkeypatch.setattr(loops, "DOCUMENTS", 2)
    monkeypatch.setattr(loops, "DOCUMENT_TOKENS", 1000)
    monkeypatch.setattr(loops, "SWEEP_PERIODS", (8,))
    monkeypatch.setattr(loops, "MOST_US", 1e6)
    monkeypatch.setattr(loops.traps, "TRAPS", {"tile map": loops.traps.TRAPS["tile map"]})
    made = [
        Limit("good", "ms", 2, lambda: 1.0),
        Limit("bad", "ns", 1, lambda: 1.5),
        Limit("equal", "us", 1, lambda: 1.0),
    ]
    monkeypatch.setattr(validator, "limits", lambda: made)
    drifted = (Bar.at_most("drift", 1, 1.0),), (Table("drift", ("a",), ()),)
    monkeypatch.setattr(drift, "measure", lambda: drifted)


def test_the_report_names_what_was_missed_and_what_was_not_measured() -> None:
    report = measure()
    assert report.missed == ["bad"]
    assert [(bar.target, bar.measured) for bar in report.bars][:3] == [
        ("<= 2 ms", 1.0),
        ("<= 1 ns", 1.5),
        ("<= 1 us", 1.0),
    ]
    assert len(report.bars) == 3 + 2 + 4 + 1
    assert len(report.tables) == 5
    assert list(report.unmeasured) == ["false alarms on files"]


def test_with_the_corpus_nothing_is_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(bisect.__file__)
    files = [corpus.File(path, path.name, "code", "held out", path.stat().st_size)]
    monkeypatch.setattr(corpus, "find", lambda also, share: files)
    report = measure(Corpus())
    assert all(name.endswith(", unseen files") for name in report.unmeasured)
    assert report.bars[-1].name.startswith("false aborts, arguments")
    assert "sources that were read" in report.missed, "one file is no corpus"
    assert report.data == {"flagged": []}


def test_a_corpus_that_was_not_read_to_its_end_is_shown_and_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = Survey({"prose": {"held out": false_alarms.Count(documents=1, flagged={Grade.ABORT: 1})}}, [], 5, 10)
    monkeypatch.setattr(corpus, "find", lambda also, share: [])
    monkeypatch.setattr(survey, "survey", lambda files, jobs, tell: stopped)
    report = measure(Corpus())
    assert list(report.unmeasured) == ["false alarms on files"]
    assert not [bar.name for bar in report.bars if "prose" in bar.name]
    assert report.tables[-1].rows[0][:3] == ("prose", "held out", 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--also", "/nowhere/at/all"], "--also: /nowhere/at/all is no folder"), (["--jobs", "0"], "--jobs")],
)
def test_what_cannot_be_read(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert main(["bench", "detectors", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_command_prints_a_table_or_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "detectors"]) == 0
    assert "MISSED" in capsys.readouterr().out
    assert main(["bench", "detectors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missed"] == ["bad"]
