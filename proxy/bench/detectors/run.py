"""Puts the sections together.

Must not: measure.
Invariant: every section's bars and tables are in the report, in order; what needs the corpus and was not asked for, or
was not read to its end, is listed as unmeasured.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxy.bench.detectors import corpus, detection, drift, false_alarms, loops, survey, survey_report, validator
from proxy.bench.detectors.survey import Progress
from proxy.bench.report import Bar, Report, Table

SEEDS = 3
"""Made loops per kind and period."""
CORPUS_SHARE = 12
"""One of so many source files of the installed packages, beside the whole standard library."""
CORPUS = "false alarms on files"
LEAST_MCHARS = 20.0
"""Of sources; a per cent of a handful of files says nothing."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """also: further folders of sources and documents; jobs: processes."""

    also: Sequence[Path] = ()
    jobs: int = 1


def measure(read: Corpus | None = None, tell: Progress = lambda _: None) -> Report:
    """Measures every bar (half a minute; with a corpus: some minutes more)."""
    tell("costs, made loops, drift, traps")
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
    unmeasured, data = {CORPUS: "takes minutes: add --corpus"}, dict[str, Any]()
    if read is not None:
        del unmeasured[CORPUS]
        found = _survey(read, tell)
        tables += survey_report.tables(found)
        data["flagged"] = [asdict(alarm) for alarm in found.alarms]
        if found.complete:
            judged, untold = survey_report.bars(found)
            raw = found.count("code, bare").chars / 1e6
            bars.append(Bar.at_least("sources that were read", LEAST_MCHARS, raw, "M chars"))
            bars += judged
            unmeasured |= untold
        else:
            unmeasured[CORPUS] = f"stopped after {found.read / 1e6:.0f} of {found.of / 1e6:.0f} MB"
    settings = {"python": platform.python_version(), "machine": platform.machine(), "rounds": validator.ROUNDS}
    return Report("detectors", settings, tuple(tables), tuple(bars), unmeasured, data)


def _survey(read: Corpus, tell: Progress) -> survey.Survey:
    tell("corpus: looking for files")
    files = corpus.find(read.also, CORPUS_SHARE)
    tell(f"corpus: {len(files)} files, {sum(file.size for file in files) / 1e6:.0f} MB, {read.jobs} at a time")
    return survey.survey(files, read.jobs, tell)
