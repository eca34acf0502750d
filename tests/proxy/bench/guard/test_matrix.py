"""The matrix on real engines: its quick form runs every fault; its bars turn red where a verdict is bad."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.bench.guard.cells import CELLS
from proxy.bench.guard.judge import Verdict
from proxy.bench.guard.matrix import Row, bars, table

GOOD = Verdict("drift.audit", 3, 1, 0, 0, True, "speculation", 2.0)
HEALED = Row(CELLS[0], [GOOD, GOOD])
QUIET = Row(
    next(cell for cell in CELLS if cell.heals == "event"), [replace(GOOD, detector="", tripped_at=None, blamed="")]
)


def missed(*rows: Row) -> list[str]:
    return [bar.name for bar in bars(rows) if not bar.holds]


def test_all_bars_hold_where_all_verdicts_are_good() -> None:
    assert missed(HEALED, QUIET) == []


@pytest.mark.parametrize(
    ("bad", "bar"),
    [
        ({"leaked_call": 1}, "bytes of bad tool calls leaked"),
        ({"equal": False}, "transcripts as a sound engine's"),
        ({"blamed": "model"}, "blame right"),
    ],
)
def test_one_bad_verdict_misses_its_bar(bad: dict[str, object], bar: str) -> None:
    row = Row(CELLS[0], [GOOD] * 10 + [replace(GOOD, **bad)])  # type: ignore[arg-type]
    assert missed(row, QUIET) == [bar]


def test_a_fault_that_never_struck_shows_nothing() -> None:
    silent = replace(GOOD, detector="", tripped_at=None, blamed="")
    assert missed(HEALED, Row(CELLS[1], [silent, silent]), QUIET) == ["faults that nothing told of"]


def test_an_incident_of_a_dead_drafter_misses_its_bar() -> None:
    assert missed(HEALED, Row(QUIET.cell, [GOOD])) == ["incidents of a dead drafter"]


def test_a_line_counts_over_all_responses_and_takes_medians() -> None:
    row = Row(CELLS[0], [GOOD, replace(GOOD, tripped_at=9, leaked_text=7), replace(GOOD, detector="", tripped_at=None)])
    line = dict(zip(table([row]).columns, table([row]).rows[0], strict=True))
    assert line["tripped"] == "2 of 3"
    assert line["detected by"] == "drift.audit 2"
    assert line["tokens until trip"] == 6
    assert line["text bytes leaked"] == 7
    assert line["blame right"] == "2 of 2"
