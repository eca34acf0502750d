"""The detectors' benchmark: every bar is reported, and exactly the missed ones are named. Times are not judged here."""

from __future__ import annotations

import json

import pytest

from proxy.bench_detectors import measure, validator
from proxy.bench_detectors.validator import Limit
from proxy.cli import main


def test_the_report_names_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        Limit("good", "ms", 2, lambda: 1.0),
        Limit("bad", "ns", 1, lambda: 1.5),
        Limit("equal", "us", 1, lambda: 1.0),
    ]
    monkeypatch.setattr(validator, "limits", lambda: made)
    report = measure()
    assert report.missed == ["bad"]
    assert [(bar.target, bar.measured) for bar in report.bars] == [("<= 2 ms", 1.0), ("<= 1 ns", 1.5), ("<= 1 us", 1.0)]


def test_the_command_prints_a_table_or_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(validator, "limits", lambda: [Limit("slow", "ms", 1, lambda: 2.0)])
    assert main(["bench", "detectors"]) == 0
    assert "MISSED" in capsys.readouterr().out
    assert main(["bench", "detectors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missed"] == ["slow"]
