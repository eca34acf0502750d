"""Made loops are found: a part of the benchmark's sweep, and its sums."""

from __future__ import annotations

import pytest

from proxy.bench.detectors.detection import MISSED, MUTATED_DELAY, Trial, bars, median_delay, missed, run_trials, table
from proxy.bench.detectors.synthetic import KINDS, LOOP_TOKENS


def test_loops_of_every_kind_are_found_in_time() -> None:
    trials = run_trials(1, periods=(1, 3, 21, 55, 120, 400))
    assert {trial.kind for trial in trials} == set(KINDS)
    assert missed(trials) <= MISSED
    assert not any(trial.early for trial in trials)
    for trial in trials:
        if trial.kind == "exact":
            assert trial.delay is not None
            assert 256 <= trial.delay <= max(256, 4 * trial.period)  # a suspicion, at 96, is not enough
            assert trial.kept == pytest.approx(1, abs=0.05)
    for kind in KINDS:
        short = [trial for trial in trials if trial.kind == kind and trial.period <= 55]
        most = LOOP_TOKENS if kind == "paraphrase" else MUTATED_DELAY  # six variants of 55 tokens return after 330
        assert median_delay(short) <= most, kind


@pytest.mark.slow
def test_the_whole_sweep() -> None:
    trials = run_trials(3, periods=range(1, 401, 7))
    assert [bar.name for bar in bars(trials) if not bar.holds] == []


def test_the_sums() -> None:
    trials = [
        Trial("exact", 10, 256, 1.0, False),
        Trial("exact", 100, 800, 1.0, False),
        Trial("counter", 10, None, 0.0, True),
        Trial("counter", 10, 500, 2.0, False),
    ]
    assert missed(trials) == 0.25
    values = [(bar.measured, bar.holds) for bar in bars(trials)]
    assert values == [(25, False), (1.5, False), (1274, False), (1, False)]


def test_the_table_has_a_row_per_kind() -> None:
    trials = [Trial(kind, 10, 300, 1.0, False) for kind in KINDS]
    assert [row[0] for row in table(trials).rows] == list(KINDS)
    assert table(trials).rows[0][3:6] == (0.0, 300, 300)
