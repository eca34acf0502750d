"""The form of all benchmarks: bars, `missed`, both prints, and that the engine's own form is the same one."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from engine.bench import report as engine_form
from proxy.bench import report as form
from proxy.bench.report import Bar, Report, Table, show

REPORT = Report(
    "detectors",
    {"device": "cpu"},
    (Table("Costs", ("detector", "ms"), (("loops [fast]", 0.25), ("drift", None))),),
    (Bar.at_most("cost", 2, 2.5, "%"), Bar.at_least("recall", 0.99, 1.0)),
    {"peer": "not installed"},
    {"raw": [1, 2]},
)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    show(REPORT, Console(), as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain["missed"] == ["cost"]
    assert plain["bars"][0] == {"name": "cost", "target": "<= 2 %", "measured": 2.5, "holds": False}
    assert Report.parse(plain).plain() == REPORT.plain()


def test_text() -> None:
    out = io.StringIO()
    show(REPORT, Console(file=out, width=200), as_json=False)
    text = out.getvalue()
    assert "loops [fast]  0.25" in text and "MISSED" in text and "not measured: peer (not installed)" in text
    assert text.rstrip().endswith("missed: cost")


def test_the_engine_has_the_same_form() -> None:
    """It may not import this one, so they are held together here."""
    theirs = engine_form.Report(
        "engine",
        {"a": 1},
        (engine_form.Table("T", ("x",), ((1.0,),), "note"),),
        (engine_form.Bar.at_least("b", 2, 1.0, "x"), engine_form.Bar.at_most("c", 2, 1.0)),
        {"d": "e"},
    )
    ours = Report(
        "engine",
        {"a": 1},
        (Table("T", ("x",), ((1.0,),), "note"),),
        (Bar.at_least("b", 2, 1.0, "x"), Bar.at_most("c", 2, 1.0)),
        {"d": "e"},
    )
    assert Report.parse(theirs.plain()) == ours and ours.plain() == theirs.plain()
    assert all(form.shown(cell) == engine_form.shown(cell) for cell in (None, 0.01234, 12.34, 1234.5, 3, "x"))
