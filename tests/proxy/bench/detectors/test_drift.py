"""The drift rows of `bench detectors`: every bar has its value, and a detector that is deaf or jumpy misses one."""

from __future__ import annotations

import pytest

from detectors.drift import calibration, sprt
from proxy.bench.detectors.drift import measure

TIMED = "calibration: time per token"


def missed(tokens: int = 4000) -> set[str]:
    bars, _ = measure(tokens)
    return {bar.name for bar in bars if not bar.holds} - {TIMED}


def test_every_bar_but_time_holds_on_any_machine() -> None:
    bars, tables = measure(4000)
    assert [bar.name for bar in bars if not bar.holds and bar.name != TIMED] == []
    assert len(bars) == 4
    assert [len(table.rows) for table in tables] == [4, 9, 3]


def test_a_jumpy_calibration_misses_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "sharpness", lambda *_: 1.5)
    assert "calibration: false convictions per 1e6 tokens, AR(1) content" in missed()


def test_a_deaf_agreement_test_misses_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sprt.AgreementTest.feed
    calls = iter(range(10**9))
    monkeypatch.setattr(
        sprt.AgreementTest, "feed", lambda self, at, agrees: real(self, at, agrees or next(calls) % 2 == 0)
    )
    assert "shadow: 85 % agreement, median samples" in missed()


def test_the_sweep_shows_what_another_point_costs() -> None:
    _, tables = measure(1000)
    rows = {row[:2]: row[2:] for row in tables[1].rows}
    assert [point for point, row in rows.items() if row[2] == "shipped"] == [(0.1, 1e-3)]
    assert rows[0.1, 1e-2][0] < rows[0.1, 1e-3][0] < rows[0.1, 1e-4][0]  # surer is later
    assert rows[0.1, 1e-2][1] >= rows[0.1, 1e-3][1]
