"""The seven workloads of a coding agent, as data: what is asked, and what about the answers is judged.

Must not: ask anything. Invariant: the same source, size and seed give the same workloads, in every mode.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from proxy.bench.pack.tasks import Source, Task, read

Judge = Literal["speed", "calls", "edit", "repair"]
"""What is counted beside speed: nothing, valid calls, the one right edit, or green tests."""
LOOPS = 20
WRITES = 320
"""Most tokens of one answer."""
REPORT_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "report_fault",
        "description": "Report the fault.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string", "maxLength": 40},
                "kind": {"type": "string", "enum": ["operator", "constant", "name", "return"]},
                "line": {"type": "integer", "minimum": 1, "maximum": 99},
                "certain": {"type": "boolean"},
            },
            "required": ["path", "kind", "line", "certain"],
            "additionalProperties": False,
        },
    },
}
_WORDS = (
    "harbour mill quarry library station orchard foundry bakery lighthouse market bridge crate lamp rope ledger stone "
    "letter wheel barrel blanket map bell grey quiet narrow sunny distant opened closed moved waited sold counted "
    "measured painted borrowed weighed before after under behind without between"
).split()


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. fields: further ones of it. task: whose repair an edit must be, for `edit`."""

    name: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """An agent's whole loop on one task. messages: how it begins."""

    name: str
    messages: tuple[Mapping[str, Any], ...]
    task: Task


@dataclass(frozen=True, slots=True)
class Workload:
    """judge: see there."""

    key: str
    title: str
    judge: Judge
    steps: tuple[Ask | Loop, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """repairs: tasks of the quality check; far: long-context repairs; times: of the loop test; few: of each other
    workload. context: characters of repository before a long-context repair; cold: characters of a cold prompt."""

    repairs: int = 20
    far: int = 4
    times: int = LOOPS
    few: int = 4
    context: int = 2000
    cold: int = 3000


QUICK = Size(repairs=2, far=1, times=3, few=1)


def workloads(source: Source, size: Size, seed: int = 0) -> tuple[Workload, ...]:
    """In the order in which they run: cold first, while nothing is cached."""
    tasks = source.tasks
    few = range(size.few)

    def task(number: int) -> Task:
        return tasks[number % len(tasks)]

    return (
        Workload("cold", "cold prompt", "speed", tuple(cold(source, size.cold, seed + n) for n in few)),
        Workload("patch", "patch generation", "edit", tuple(_patch(source, task(n)) for n in few)),
        Workload("json", "JSON tool call, strict schema", "calls", tuple(_strict(source, task(n)) for n in few)),
        Workload(
            "far",
            "long-context repair",
            "repair",
            tuple(far(source, task(size.few + n), size.context, n) for n in range(size.far)),
        ),
        Workload("markdown", "Markdown rewrite", "speed", tuple(_markdown(source, task(n)) for n in few)),
        Workload(
            "loop", f"loop test, one prompt {size.times} times", "calls", _again(source, task(0), size.times, seed)
        ),
        Workload(
            "quality",
            "quality check",
            "repair",
            tuple(_repair(source, task(size.few + size.far + n)) for n in range(size.repairs)),
        ),
    )


def cold(source: Source, chars: int, seed: int) -> Ask:
    """A new context without repetition, numbered lines of words drawn by the seed, before a request. A short answer."""
    rng = random.Random(seed)
    lines, written = [], 0
    while written < chars:
        lines.append(f"{rng.randrange(10**6):06} {' '.join(rng.sample(_WORDS, 6))}.")
        written += len(lines[-1]) + 1
    system, asked = source.opening(source.tasks[seed % len(source.tasks)])
    text = "\n".join([*lines, "", asked["content"]])
    return Ask(f"cold {seed}", (system, asked | {"content": text}), source.tools, _fields(48))


def far(source: Source, task: Task, chars: int, number: int) -> Loop:
    """A repair behind so many characters of other files; the faulty one has just been read."""
    system, asked = source.opening(task)
    others = source.context(chars, number * 7, task.module)
    messages = (system, asked, *others, *read("context_0", task.module, task.source))
    return Loop(f"{task.name} behind {chars} characters", messages, task)


def _patch(source: Source, task: Task) -> Ask:
    messages = (*source.opening(task), *read("context_0", task.module, task.source))
    return Ask(task.name, messages, source.tools, _fields(WRITES), task)


def _strict(source: Source, task: Task) -> Ask:
    messages = (*source.opening(task), *read("context_0", task.module, task.source))
    fields = _fields(96) | {"tool_choice": {"type": "function", "function": {"name": "report_fault"}}}
    return Ask(task.name, messages, (REPORT_TOOL,), fields)


def _markdown(source: Source, task: Task) -> Ask:
    """The code of a document is to be written again with one change: the answer is mostly a copy, twice."""
    page = task.module.rpartition(".")[0] + ".md"
    text = f"# {page}\n\nHow `{task.function}` works:\n\n```python\n{task.source.strip()}\n```\n"
    documented = replace(task, module=page, source=text, fixed=text)
    messages = (*source.opening(documented), *read("context_0", page, text))
    return Ask(task.name, messages, source.tools, _fields(WRITES))


def _again(source: Source, task: Task, times: int, seed: int) -> tuple[Ask, ...]:
    """One prompt, drawn with another seed each time."""
    messages = tuple(source.opening(task))
    fields = [_fields(WRITES) | {"temperature": 0.3, "seed": seed + 1 + n} for n in range(times)]
    return tuple(Ask(f"time {n + 1}", messages, source.tools, each) for n, each in enumerate(fields))


def _repair(source: Source, task: Task) -> Loop:
    return Loop(task.name, tuple(source.opening(task)), task)


def _fields(limit: int) -> dict[str, Any]:
    return {"temperature": 0, "seed": 0, "max_tokens": limit}


def names(found: Sequence[Workload]) -> list[str]:
    return [workload.key for workload in found]
