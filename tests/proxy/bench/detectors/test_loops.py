"""Costs and the sweep: every row is measured. Times are not judged here."""

from __future__ import annotations

import pytest

from proxy.bench.detectors import loops
from proxy.bench.detectors.synthetic import LEAD, stream
from proxy.bench.detectors.tokens import pieces


def test_the_costs_of_all_parts_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "ROUNDS", 1)
    monkeypatch.setattr(loops, "DOCUMENTS", 2)
    documents = loops.clean_text()
    assert len(documents) == 2
    table, bars = loops.cost([document for document in documents])
    assert len(table.rows) == 8
    assert all(isinstance(cell, float) and cell > 0 for row in table.rows for cell in row[1:])
    assert [bar.target for bar in bars] == ["<= 3 us/token", "<= 1024 KiB/stream"]
    assert bars[1].holds


def test_the_sweep_has_a_row_per_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "SWEEP_PERIODS", (21,))
    monkeypatch.setattr(loops.traps, "TRAPS", {"tile map": loops.traps.TRAPS["tile map"]})
    table = loops.sweep([pieces("A short text. ")], seeds=1)
    assert len(table.rows) == len(loops.points())
    assert {row[2] for row in table.rows} == {"0 of 1"}


@pytest.mark.parametrize(
    ("kind", "detector"),
    [("exact", "exact"), ("exact", "bytes"), ("counter", "counter"), ("substitution 1 %", "near-repeat")],
)
def test_a_higher_threshold_is_reached_later(kind: str, detector: str) -> None:
    tokens = stream(kind, 21, 1)
    reached = [p.first(tokens) for p in loops.points() if kind in p.kinds and p.detector == detector]
    found = [at for at in reached if at is not None]
    assert found == sorted(found)
    assert len(found) >= 3
    assert found[0] > LEAD


def test_what_counts_as_filled_in_decides_about_collections_and_long_loops() -> None:
    text, loop = pieces(loops.traps.made("licence collection", 1)), stream("substitution 5 %", 280, 1)
    points = [point for point in loops.points() if point.detector == "near-repeat, long units"]
    assert [point.setting for point in points][:3] == ["filled in from 0.1", "filled in from 0.2", "filled in from 0.4"]
    assert [point.first(text) is None for point in points] == [True, True, True, True, False]
    assert [point.first(loop) is None for point in points] == [True, False, False, False, False]
