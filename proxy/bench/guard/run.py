"""Puts the sections together.

Must not: measure. Invariant: every section's tables and bars are in the report, in order.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from policies.modes import DecodeMode
from proxy.bench.guard import calm, matrix, overhead
from proxy.bench.guard.cells import CELLS
from proxy.bench.guard.tasks import Task, tasks
from proxy.bench.guard.trial import started
from proxy.bench.report import Bar, Report, Table


@dataclass(frozen=True, slots=True)
class Setting:
    """build: a backend as a server has it, with a fault. cold: the same without kept prefixes, so that every first
    token waits for the whole prompt.

    data: conversations of the engine's benchmark; banned: ids of tokens that end a turn or open a call.
    """

    build: matrix.Build
    cold: Callable[[str], overhead.Audited]
    data: Mapping[str, Any]
    banned: Sequence[int]

    def tasks(self, prelude: bool) -> list[Task]:
        return tasks(self.data, self.banned, prelude)


Part = Literal["matrix", "calm", "cost"]
PARTS: tuple[Part, ...] = ("matrix", "calm", "cost")


async def measure(
    setting: Setting,
    tell: matrix.Tell,
    parts: Collection[Part] = PARTS,
    faults: Sequence[str] = (),
    quick: bool = False,
) -> Report:
    """parts: matrix = planted faults, calm = without one, cost = beside the engine alone. faults: the matrix of these
    alone, all if empty. quick: two tasks each, to see that everything runs."""

    def given(prelude: bool) -> Sequence[Task]:
        found = setting.tasks(prelude)
        return [found[0], found[-1]] if quick else found

    tables: list[Table] = []
    bars: list[Bar] = []
    if "matrix" in parts:
        cells = [cell for cell in CELLS if not faults or cell.fault in faults]
        rows = await matrix.run_matrix(setting.build, given, tell, cells)
        tables.append(matrix.table(rows))
        bars += matrix.bars(rows)
    if "calm" in parts:
        tell("without a fault")
        async with started(setting.build("")) as sound:
            found = await calm.run_calm(sound, given(False), 8 if quick else calm.RESPONSES)
        tables.append(calm.table(found))
        bars.append(calm.bar(found))
    if "cost" in parts:
        tell("what the guard costs")
        backend = setting.cold("")
        async with started(backend):
            sides = await overhead.run_overhead(backend, overhead.long_ones(given(False)), DecodeMode("mtp+ngram"))
        tables.append(overhead.table(sides))
        bars += overhead.bars(sides)
    unmeasured: dict[str, str] = {part: "not asked for: leave --part out" for part in PARTS if part not in parts}
    settings = {"python": platform.python_version(), "machine": platform.machine(), "tasks": len(given(False))}
    return Report("guard", settings, tuple(tables), tuple(bars), unmeasured)
