"""The detectors' benchmark: every bar is reported, and exactly the missed ones are named. Times are not judged here."""

from __future__ import annotations

import json

import pytest

from detectors.json_stream.compiled import CompiledSchema
from proxy import bench_detectors
from proxy.bench_detectors import CALLS, SCHEMAS, Bar, bars, run


def test_every_call_is_valid_under_its_schema() -> None:
    for name, schema in SCHEMAS.items():
        compiled = CompiledSchema(schema, json.dumps(schema))
        assert compiled.validator.is_valid(CALLS[name])
        assert compiled.exactness == "exact"


def test_the_report_names_what_was_missed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = [Bar("good", "ms", 2, lambda: 1.0), Bar("bad", "ns", 1, lambda: 1.5), Bar("equal", "us", 1, lambda: 1.0)]
    monkeypatch.setattr(bench_detectors, "bars", lambda: made)
    report = run(json=True)
    assert report["missed"] == ["bad"]
    assert json.loads(capsys.readouterr().out) == report
    assert [bar["measured"] for bar in report["bars"]] == [1.0, 1.5, 1.0]
    assert run() == report
    assert "missed" in capsys.readouterr().out


def test_every_bar_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_detectors, "ROUNDS", 1)
    measured = {bar.name: bar.measure() for bar in bars()}
    assert len(measured) == len(bars()) == 9
    assert all(value > 0 for value in measured.values())
    assert measured["memory beside the raw bytes"] < 64
