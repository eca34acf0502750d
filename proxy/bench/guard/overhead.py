"""What the guard costs where nothing trips: the same responses with it and without, in turn, on the same machine.

Must not: compare figures of different runs. Invariant: every task is decoded by all sides, in changing order, on one
engine: a second one has its weights in the way of the first one's, and would be measured instead of the audits.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.backends.base import Backend
from proxy.bench.guard.tasks import Task
from proxy.bench.guard.trial import Trial
from proxy.bench.report import Bar, Table
from proxy.events import Started
from proxy.guard.admission import admit
from proxy.guard.session import GuardedSession

ROUNDS = 12
"""A shared machine changes its speed by some percent from response to response."""


@dataclass(slots=True)
class Side:
    """One way to decode. Milliseconds, one value per response; tokens over all.

    first: until the first token is decoded, prefill included. decode: from then to the end.
    """

    name: str
    first: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    tokens: int = 0


def long_ones(tasks: Sequence[Task]) -> list[Task]:
    """Seven calls and three texts, two to one as in all tasks; what takes a dozen tokens cannot be timed."""
    calls = [task for task in tasks if task.kind == "call"]
    return [*calls[:7], *[task for task in tasks if task.kind == "text"][-3:]]


class Audited(Backend, Protocol):
    """A backend whose audits can be left out."""

    audit_every: int


async def run_overhead(backend: Audited, tasks: Sequence[Task], mode: DecodeMode, rounds: int = ROUNDS) -> list[Side]:
    """backend: as a server is configured. Sides: engine alone, guard, guard and audits."""
    sides = [Side("engine alone"), Side("guard"), Side("guard and audits")]
    audit_every = backend.audit_every
    for round_ in range(rounds + 1):
        for number, task in enumerate(tasks):
            for step in range(len(sides)):
                index = (step + number + round_) % len(sides)
                backend.audit_every = audit_every if index == 2 else 0
                measured = await _time(index, backend, task, mode)
                backend.audit_every = audit_every
                if round_:  # the first round fills caches
                    side = sides[index]
                    side.first.append(measured[0])
                    side.decode.append(measured[1])
                    side.tokens += measured[2]
    return sides


def table(sides: Sequence[Side]) -> Table:
    rows = tuple(
        (
            side.name,
            side.tokens,
            sum(side.decode) / side.tokens,
            _total(side, sides[0]),
            statistics.median(side.first),
            _added(side, sides[0]),
        )
        for side in sides
    )
    columns = ("side", "tokens", "ms per token", "decode time added, %", "first token ms", "added ms (p50)")
    return Table("What the guard costs", columns, rows, "No incident; all detectors on. Same tasks, sides in turn.")


def bars(sides: Sequence[Side]) -> list[Bar]:
    alone, guard, audited = sides
    return [
        Bar.at_most("guard: decode time added", 2, _share(guard, alone), "%"),
        Bar.at_most("guard and audits: decode time added", 2, _total(audited, alone), "%"),
        Bar.at_most("guard: first token later by (p50)", 1, _added(guard, alone), "ms"),
    ]


def _share(side: Side, alone: Side) -> float:
    """The median over responses, each against the same task's own: a pause of the machine counts once."""
    return 100 * statistics.median(one / other - 1 for one, other in zip(side.decode, alone.decode, strict=True))


def _total(side: Side, alone: Side) -> float:
    """Over all responses: few of them are audited, so that a median would leave the audits out."""
    return 100 * (sum(side.decode) / sum(alone.decode) - 1)


def _added(side: Side, alone: Side) -> float:
    return statistics.median(one - other for one, other in zip(side.first, alone.first, strict=True))


async def _time(index: int, backend: Backend, task: Task, mode: DecodeMode) -> tuple[float, float, int]:
    started = time.perf_counter()
    if index == 0:
        admit(task.request, backend.capabilities)
        generation = await backend.generate(task.request, mode)
        tokens, first = 0, started
        while (delta := await generation.next()) is not None:
            first = first if tokens else time.perf_counter()
            tokens += len(delta.tokens)
            if delta.end is not None:
                break
        ended = time.perf_counter()
        await generation.close()
        return (first - started) * 1e3, (ended - first) * 1e3, tokens
    trial, first = Trial(), started
    async with aclosing(GuardedSession(task.request, backend, Policy(), trial, mode).events()) as events:
        async for event in events:
            first = time.perf_counter() if isinstance(event, Started) else first
            trial.take(event)
        ended = time.perf_counter()
    return (first - started) * 1e3, (ended - first) * 1e3, len(trial.said.ids)
