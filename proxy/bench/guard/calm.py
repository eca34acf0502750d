"""False alarms: tasks on a sound engine, every detector on. Nothing may be told.

Must not: pass over a task. Invariant: the number of responses is what was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.backends.base import Backend
from proxy.bench.guard.tasks import Task
from proxy.bench.guard.trial import respond
from proxy.bench.report import Bar, Table

RESPONSES = 200
MODES = ("mtp+ngram/full", "mtp+ngram/k4v4", "mtp/k8v8", "ngram/full")
TEMPERATURES = (None, 0.3, 0.8)
"""None = as the task says. At 1 and above this small model makes calls that are none, which is no false alarm."""


@dataclass(slots=True)
class Calm:
    """What a mode's responses told: detectors, and failures of responses that should have come to their end."""

    mode: str
    responses: int = 0
    tokens: int = 0
    told: Counter[str] = field(default_factory=Counter)


async def run_calm(sound: Backend, tasks: Sequence[Task], responses: int = RESPONSES) -> list[Calm]:
    """The tasks in turn through the modes and temperatures until so many responses were made."""
    found = {mode: Calm(mode) for mode in MODES}
    for number in range(responses):
        calm = found[MODES[number % len(MODES)]]
        task, round_ = tasks[number // len(MODES) % len(tasks)], number // len(MODES) // len(tasks)
        temperature = TEMPERATURES[(number // len(MODES) + round_) % len(TEMPERATURES)]
        drawn = task if temperature is None else task.drawn(temperature, number)
        trial = await respond(sound, drawn, DecodeMode.parse(calm.mode), Policy())
        calm.responses += 1
        calm.tokens += len(trial.said.ids)
        calm.told.update(incident.detector for incident in trial.incidents)
        if trial.said.end.startswith("failed: "):  # nothing could trip in it
            calm.told[trial.said.end] += 1
    return list(found.values())


def table(found: Sequence[Calm]) -> Table:
    rows = tuple(
        (calm.mode, calm.responses, calm.tokens, ", ".join(f"{n} {c}" for n, c in calm.told.items()) or "nothing")
        for calm in found
    )
    return Table("Without a fault", ("mode", "responses", "tokens", "told"), rows)


def bar(found: Sequence[Calm]) -> Bar:
    responses = sum(calm.responses for calm in found)
    return Bar.at_most(f"incidents without a fault in {responses} tasks", 0, sum(calm.told.total() for calm in found))
