"""Puts the sections together.

Must not: measure. Invariant: every section's tables and bars are in the report, in order.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policies.modes import DecodeMode
from proxy.bench_guard import calm, matrix, overhead
from proxy.bench_guard.cells import CELLS
from proxy.bench_guard.tasks import Task, tasks
from proxy.bench_guard.trial import started
from proxy.bench_report import Report


@dataclass(frozen=True, slots=True)
class Setting:
    """build: a backend as a server has it, with a fault; bare: one without audits and shadow checks.

    data: conversations of the engine's benchmark; banned: ids of tokens that end a turn or open a call.
    """

    build: matrix.Build
    bare: matrix.Build
    data: Mapping[str, Any]
    banned: Sequence[int]

    def tasks(self, prelude: bool) -> list[Task]:
        return tasks(self.data, self.banned, prelude)


async def measure(setting: Setting, tell: matrix.Tell, faults: Sequence[str] = (), quick: bool = False) -> Report:
    """faults: the matrix of these alone, everything if empty. quick: two tasks each, to see that everything runs."""

    def given(prelude: bool) -> Sequence[Task]:
        found = setting.tasks(prelude)
        return [found[0], found[-1]] if quick else found

    cells = [cell for cell in CELLS if not faults or cell.fault in faults]
    rows = await matrix.run_matrix(setting.build, given, tell, cells)
    tables, bars = [matrix.table(rows)], matrix.bars(rows)
    if not faults:
        async with started(setting.build("")) as sound, started(setting.bare("")) as alone:
            tell("without a fault")
            found = await calm.run_calm(sound, given(False), 8 if quick else calm.RESPONSES)
            tables.append(calm.table(found))
            bars.append(calm.bar(found))
            tell("what the guard costs")
            sides = await overhead.run_overhead(alone, sound, given(False)[:10], DecodeMode("mtp+ngram"))
            tables.append(overhead.table(sides))
            bars += overhead.bars(sides)
    settings = {"python": platform.python_version(), "machine": platform.machine(), "tasks": len(given(False))}
    return Report("guard", settings, tuple(tables), tuple(bars))
