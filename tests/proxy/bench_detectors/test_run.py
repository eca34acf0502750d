"""The detectors' benchmark: every bar is reported, and exactly the missed ones are named. Times are not judged here."""

from __future__ import annotations

import json

import pytest

from proxy.bench_detectors import detection, drift, false_alarms, loops, measure, run, validator
from proxy.bench_detectors.validator import Limit
from proxy.bench_report import Bar, Table
from proxy.cli import main


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
    assert list(report.unmeasured) == ["false alarms on this machine's files"]


def test_with_the_corpus_nothing_is_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(false_alarms, "count_corpus", lambda share: {"prose": false_alarms.Count(documents=1)})
    report = measure(with_corpus=True)
    assert report.unmeasured == {}
    assert report.bars[-1].name == "false aborts, prose"


def test_the_command_prints_a_table_or_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "detectors"]) == 0
    assert "MISSED" in capsys.readouterr().out
    assert main(["bench", "detectors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missed"] == ["bad"]
