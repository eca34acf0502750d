"""What the guard costs in front of another server: the figures, the bars, and one short run of the whole."""

from __future__ import annotations

import pytest

from proxy.bench.overhead.lanes import HOP, OURS, ArmCost, LanePlan, bars_of, measure, tables_of


def cost(added: float, cpu: float = 0.03) -> ArmCost:
    direct = [(0.010, 0.011, 0.012)] * 3
    return ArmCost([(a + added, b + added, c + added) for a, b, c in direct], direct, cpu, 1000)


def test_what_is_added_is_the_median_over_the_rounds() -> None:
    made = ArmCost([(0.011, 1, 1), (0.013, 1, 1), (0.9, 1, 1)], [(0.010, 1, 1)] * 3)
    assert made.added[0] == pytest.approx(3.0)


def test_processor_time_is_that_of_a_thousand_tokens_in_a_second() -> None:
    assert cost(0, cpu=0.03).cpu_percent == pytest.approx(3.0)
    assert ArmCost().cpu_percent == 0


@pytest.mark.parametrize(
    ("added", "cpu", "healed", "missed"),
    [(0.0009, 0.029, 0.029, 0), (0.0011, 0.029, 0.029, 1), (0.0009, 0.031, 0.029, 1), (0.0009, 0.029, 0.031, 1)],
)
def test_bars(added: float, cpu: float, healed: float, missed: int) -> None:
    bars = bars_of({(1, 16): {HOP: cost(9, 9), OURS: cost(added, cpu)}}, [0.010] * 3, [healed] * 3)
    assert len(bars) == 3
    assert sum(not bar.holds for bar in bars) == missed


def test_tables_have_a_row_for_each_load_and_arm() -> None:
    arms = {HOP: cost(0.001), OURS: cost(0.002)}
    loads, calls = tables_of({(1, 1): arms, (4, 16): arms}, [0.01], [0.02])
    assert [row[:3] for row in loads.rows] == [(1, 1, HOP), (1, 1, OURS), (4, 16, HOP), (4, 16, OURS)]
    assert [row[3] for row in loads.rows] == [pytest.approx(1), pytest.approx(2)] * 2
    assert [row[1] for row in calls.rows] == [pytest.approx(10), pytest.approx(20)]


async def test_a_short_run() -> None:
    report = await measure(LanePlan((4,), (1,), 1, 0.0, 1, 0.001), lambda _: None)
    assert len(report.bars) == 3
    assert all(bar.measured == bar.measured for bar in report.bars)
    assert [row[2] for row in report.tables[0].rows] == [HOP, OURS]
    assert all(row[-1] >= 240 and row[-2] > 0 for row in report.tables[0].rows)  # type: ignore[operator]
