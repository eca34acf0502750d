"""Runs the matrix: every cell's fault in a real engine, over all tasks, against what a sound engine says.

Must not: judge a trial, or run faults in a sound engine. Invariant: one engine at a time has a fault, and it is stopped
before the next one starts.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from detectors.settings import DEFAULT
from detectors.stall import StallSettings
from policies.modes import PLAIN, DecodeMode
from policies.policy import Policy
from proxy.backends.base import Backend, Replayer, Rerun
from proxy.bench.guard.cells import CELLS, Cell
from proxy.bench.guard.judge import Verdict, judge
from proxy.bench.guard.tasks import Task
from proxy.bench.guard.trial import Said, Trial, respond, started
from proxy.bench.report import Bar, Table
from proxy.replays.automatic import AutomaticReplay, AutomaticSettings

Build = Callable[[str], Backend]
"""A backend that is not started yet, with the fault of this name, "" = none."""
TasksOf = Callable[[bool], Sequence[Task]]
"""The tasks, with the prelude or without."""
Tell = Callable[[str], None]
FEW = 5
"""Tasks of a fault that takes the engine with it."""
IMPATIENT = replace(DEFAULT, stall=StallSettings(lost_floor_s=3.0, lost_first_s=30.0))
"""A server waits five minutes for a step before it gives a response up; so long nobody waits for a benchmark."""


@dataclass(slots=True)
class Row:
    """A cell and the verdicts on its tasks."""

    cell: Cell
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def tripped(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.detector]

    def count(self, holds: Callable[[Verdict], bool]) -> int:
        return sum(map(holds, self.verdicts))


class References:
    """What a sound engine says, asked once for each task and mode."""

    def __init__(self, sound: Backend) -> None:
        self._sound = sound
        self._said: dict[tuple[str, str, bool], Said] = {}

    async def plain(self, task: Task, codec: str, prelude: bool) -> Said:
        key = (task.name, codec, prelude)
        if key not in self._said:
            trial = await respond(self._sound, task, DecodeMode("none", codec), Policy())
            self._said[key] = trial.said
        return self._said[key]

    async def healed(self, trial: Trial) -> tuple[int, ...] | None:
        """The ids that stood after the last rewind, and what plain decoding with a full cache says after them."""
        rewinds = [i for i, incident in enumerate(trial.incidents) if incident.action == "rewind"]
        if not rewinds or (capture := trial.captures[rewinds[-1]]) is None:
            return None
        rerun = Rerun(capture.request, capture.prompt_ids, capture.seed, PLAIN, forced=capture.kept_ids)
        replayed = await cast(Replayer, self._sound).replay(rerun)
        ids: list[int] = []
        while (delta := await replayed.next()) is not None:
            ids += [token.id for token in delta.tokens]
            if delta.end is not None:
                break
        await replayed.close()
        return tuple(ids)


async def run_matrix(build: Build, tasks_of: TasksOf, tell: Tell, cells: Iterable[Cell] = CELLS) -> list[Row]:
    """Every cell over every task (some minutes)."""
    rows = []
    async with started(build("")) as sound:
        references = References(sound)
        for cell in cells:
            tell(f"{cell.fault} in {cell.mode}")
            rows.append(await _run(cell, build, tasks_of(cell.prelude), references))
    return rows


async def _run(cell: Cell, build: Build, tasks: Sequence[Task], references: References) -> Row:
    row = Row(cell)
    if cell.fresh:
        for number, task in enumerate(tasks[:FEW]):
            async with started(build(cell.fault)) as faulty:
                row.verdicts.append(await _try(cell, faulty, task, number, references))
    else:
        async with started(build(cell.fault)) as faulty:
            for number, task in enumerate(tasks):
                row.verdicts.append(await _try(cell, faulty, task, number, references))
    return row


async def _try(cell: Cell, faulty: Backend, given: Task, number: int, references: References) -> Verdict:
    mode = DecodeMode.parse(cell.mode)
    task = given if cell.temperature is None else given.drawn(cell.temperature, number)
    sound = await references.plain(task, mode.codec, cell.prelude)
    if cell.warm:
        await respond(faulty, task, mode, Policy())
    trial = await respond(faulty, task, mode, Policy(), detectors=IMPATIENT)
    await _settle(trial, faulty)
    healed = await references.healed(trial) if cell.heals == "full" else None
    return judge(cell, trial, sound, healed)


async def _settle(trial: Trial, faulty: Backend) -> None:
    """What the closed record is not certain of is run again, as a server does it when nobody is served."""
    idle = asyncio.Event()
    idle.set()
    replay = AutomaticReplay(faulty, trial.judged, idle, settings=AutomaticSettings(quiet_s=0))
    for incident, capture, closure in zip(trial.incidents, trial.captures, trial.closures, strict=False):
        if closure.certainty != "certain":
            replay.opened(incident, capture)
            replay.closed(closure)
    await replay.settled()
    await replay.close()


def table(rows: Sequence[Row]) -> Table:
    """One line per cell. Medians where there are many values."""
    columns = (
        "fault",
        "mode",
        "tripped",
        "detected by",
        "tokens until trip",
        "after the first wrong one",
        "call bytes leaked",
        "text bytes leaked",
        "as it must be",
        "blame right",
        "resume ms",
    )
    return Table(
        "Planted faults",
        columns,
        tuple(map(_line, rows)),
        "Tripped: responses with an incident. A response of which nothing tripped and that is as it must be was not "
        "touched by the fault. Leaked: bytes that a sound engine would not have sent, over all responses.",
    )


def bars(rows: Sequence[Row]) -> list[Bar]:
    """The promises of the matrix."""
    healing = [row for row in rows if row.cell.culprit]
    equal = [verdict.equal for row in healing for verdict in row.verdicts]
    blamed = [verdict.blamed == row.cell.culprit for row in healing for verdict in row.tripped]
    failed = [verdict.equal for row in rows if row.cell.heals == "honest_failure" for verdict in row.verdicts]
    events = [verdict for row in rows if row.cell.heals == "event" for verdict in row.verdicts]
    leaked = sum(verdict.leaked_call for row in rows for verdict in row.verdicts)
    unheard = [row for row in rows if row.cell.heals != "event" and not row.tripped]
    found = [
        Bar.at_most("bytes of bad tool calls leaked", 0, leaked),
        Bar.at_most("faults that nothing told of", 0, len(unheard)),  # or that never struck: then nothing was shown
    ]
    if healing:
        found.append(Bar.at_least("transcripts as a sound engine's", 100, _percent(equal), "%"))
        found.append(Bar.at_least("blame right", 95, _percent(blamed), "%"))
    if failed:
        found.append(Bar.at_least("what cannot be healed fails honestly", 100, _percent(failed), "%"))
    if events:
        found.append(Bar.at_most("incidents of a dead drafter", 0, sum(bool(verdict.detector) for verdict in events)))
    return found


def _line(row: Row) -> tuple[str | float | int | None, ...]:
    tripped = row.tripped
    told = Counter(verdict.detector for verdict in tripped).most_common()
    delays = [verdict.delay for verdict in tripped if verdict.delay is not None]
    paused = [verdict.milliseconds for verdict in tripped if verdict.milliseconds is not None]
    blamed = [verdict.blamed == row.cell.culprit for verdict in tripped]
    return (
        row.cell.fault,
        row.cell.mode,
        f"{len(tripped)} of {len(row.verdicts)}",
        ", ".join(f"{name} {count}" for name, count in told) or None,
        _median([verdict.tripped_at for verdict in tripped if verdict.tripped_at is not None]),
        _median(delays),
        sum(verdict.leaked_call for verdict in row.verdicts),
        sum(verdict.leaked_text for verdict in row.verdicts),
        f"{row.count(lambda verdict: verdict.equal)} of {len(row.verdicts)}",
        f"{sum(blamed)} of {len(blamed)}" if row.cell.culprit else None,
        _median(paused),
    )


def _median(values: Sequence[float]) -> float | None:
    return float(statistics.median(values)) if values else None


def _percent(held: Sequence[bool]) -> float:
    return 100 * sum(held) / len(held) if held else 0.0
