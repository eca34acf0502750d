"""Puts the sections together.

Must not: measure.
Invariant: every section's bars and tables are in the report, in order; what needs the corpus and was not asked for is
listed as unmeasured.
"""

from __future__ import annotations

import platform

from proxy.bench_detectors import detection, drift, false_alarms, loops, validator
from proxy.bench_report import Bar, Report, Table

SEEDS = 3
"""Made loops per kind and period."""
CORPUS_SHARE = 12
"""One of so many files of the installed packages, beside the whole standard library."""


def measure(with_corpus: bool = False) -> Report:
    """Measures every bar (half a minute; with_corpus: some minutes more)."""
    bars = [Bar.at_most(limit.name, limit.most, limit.measure(), limit.unit) for limit in validator.limits()]
    documents = loops.clean_text()
    cost, cost_bars = loops.cost(documents)
    trials = detection.run_trials(SEEDS)
    tables: list[Table] = [cost, detection.table(trials), loops.sweep(documents)]
    bars += cost_bars + detection.bars(trials)
    drift_bars, drift_tables = drift.measure()
    bars += drift_bars
    tables += drift_tables
    traps = false_alarms.count_traps()
    tables.append(false_alarms.traps_table(traps))
    unmeasured = {}
    if with_corpus:
        counts = false_alarms.count_corpus(CORPUS_SHARE)
        tables.append(false_alarms.corpus_table(counts))
        bars += false_alarms.corpus_bars(counts)
    else:
        unmeasured["false alarms on this machine's files"] = "takes minutes: add --corpus"
    settings = {"python": platform.python_version(), "machine": platform.machine(), "rounds": validator.ROUNDS}
    return Report("detectors", settings, tuple(tables), tuple(bars), unmeasured)
