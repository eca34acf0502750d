"""Bars, and that what was missed stands at the top of what machines read."""

from __future__ import annotations

import json

from engine.bench.report import Bar, Report, Table, shown

REPORT = Report(
    "engine",
    {"device": "cpu"},
    (Table("T", ("mode", "speed"), (("plain", 123.456), ("mtp", None))),),
    (Bar.at_least("fast", 2, 1.99, "x"), Bar.at_most("small", 10, 10.0, "%")),
    {"peer": "not installed"},
)


def test_bars_hold_at_their_target() -> None:
    assert [bar.holds for bar in REPORT.bars] == [False, True]
    assert [bar.target for bar in REPORT.bars] == [">= 2 x", "<= 10 %"]


def test_missed_names_bars_that_were_measured_and_not_reached() -> None:
    plain = json.loads(json.dumps(REPORT.plain()))
    assert plain["missed"] == ["fast"]
    assert plain["unmeasured"] == {"peer": "not installed"}
    assert plain["tables"][0]["rows"] == [["plain", 123.456], ["mtp", None]]


def test_text_is_aligned_and_ends_with_what_was_missed() -> None:
    text = REPORT.text()
    assert "T\nmode   speed\nplain    123\nmtp        -" in text
    assert text.endswith("not measured: peer (not installed)\n\nmissed: fast")


def test_cells() -> None:
    assert [shown(cell) for cell in (None, 0.01234, 12.34, 1234.5, 3, "x")] == ["-", "0.0123", "12.3", "1234", "3", "x"]
