"""The loop of a coding agent on files in memory: ask, run the calls, hand back results, until it is done.

Must not: execute anything but in the sandbox, or read and write the disk.
Invariant: every call gets one result before the model is asked again; the result is worded as the source says.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.bench.pack.client import Answer, Call
from proxy.bench.pack.invented import invented_names
from proxy.bench.pack.sandbox import Tested, changed_lines, run_tests, same_tree, unknown_names
from proxy.bench.pack.tasks import Source, Task

TURNS = 8
Asking = Callable[[Sequence[Mapping[str, Any]]], Awaitable[Answer]]


@dataclass(slots=True)
class Repaired:
    """green: whether the task is solved. first_edit_s: from the start to the first edit that changed the file towards
    the reference, None = there was none. unknown: names that are nowhere; off: lines unlike the reference."""

    answers: list[Answer] = field(default_factory=list)
    green: bool = False
    seconds: float = 0.0
    first_edit_s: float | None = None
    unknown: tuple[str, ...] = ()
    off: int = 0
    gave_up: str = ""


class Files:
    """The repository of one task; `call` runs a tool."""

    def __init__(self, source: Source, task: Task) -> None:
        self._says, self._task = source.says, task
        self.now = task.files
        self.useful = False

    def call(self, call: Call) -> str:
        try:
            arguments = json.loads(call.arguments or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            return "error: the arguments are not a JSON object"
        path = str(arguments.get("path", ""))
        match call.name:
            case "read_file":
                return self.now[path].rstrip("\n") if path in self.now else self._not_found(path)
            case "edit_file":
                return self._edit(path, str(arguments.get("old_string", "")), str(arguments.get("new_string", "")))
            case "run_tests":
                return self._told(self.tested())
        return f"error: no tool {call.name}"

    def tested(self) -> Tested:
        """Blocks."""
        task = self._task
        if task.judge == "tests":
            return run_tests(self.now)
        if same_tree(self.now[task.module], task.fixed):
            return Tested(1)
        return Tested(0, trouble=task.output)

    def repaired(self) -> bool:
        """By the task's own tests, whatever the agent has made of them. Blocks."""
        if self._task.test:
            self.now[self._task.test] = self._task.tests
        return self.tested().green

    def _edit(self, path: str, old: str, new: str) -> str:
        if path not in self.now:
            return self._not_found(path)
        text = self.now[path]
        count = text.count(old) if old else 0
        if count != 1:
            says = self._says["ambiguous" if count else "missing"]
            return says.format(path=path, count=count)
        self.now[path] = edited = text.replace(old, new)
        if path == self._task.module:
            fixed = self._task.fixed
            self.useful = self.useful or changed_lines(edited, fixed) < changed_lines(text, fixed)
        return self._says["edited"].format(path=path)

    def _not_found(self, path: str) -> str:
        return self._says["not_found"].format(path=path, files="\n".join(sorted(self.now)))

    def _told(self, tested: Tested) -> str:
        if tested.trouble:
            return tested.trouble if self._task.judge == "tree" else f"error: {tested.trouble}"
        if not tested.failures:
            return self._says["passed"].format(passed=tested.passed)
        test, statement, outcome = tested.failures[0]
        first = self._says["failure"].format(test=test, statement=statement, outcome=outcome)
        return self._says["failed"].format(first=first, failed=len(tested.failures), passed=tested.passed)


async def repair(
    ask: Asking, source: Source, task: Task, messages: Sequence[Mapping[str, Any]], turns: int = TURNS
) -> Repaired:
    """Lets the model work until it answers without a call, fails, repeats itself, or has had its turns."""
    files, done = Files(source, task), Repaired()
    talk = list(messages)
    started = time.perf_counter()
    seen: list[str] = []
    while len(done.answers) < turns:
        answer = await ask(talk)
        done.answers.append(answer)
        if answer.failed or not answer.calls:
            done.gave_up = answer.failed
            break
        talk.append(_turn(answer))
        for call in answer.calls:
            result = await asyncio.to_thread(files.call, call)
            if files.useful and done.first_edit_s is None:
                done.first_edit_s = time.perf_counter() - started
            talk.append({"role": "tool", "tool_call_id": call.id, "content": result})
        seen.append(json.dumps([(call.name, call.arguments) for call in answer.calls]))
        if seen.count(seen[-1]) >= 3:
            done.gave_up = "the same calls three times"
            break
    done.seconds = time.perf_counter() - started
    done.green = await asyncio.to_thread(files.repaired)
    done.unknown = await asyncio.to_thread(hallucinated, source, task, files.now)
    done.off = changed_lines(files.now[task.module], task.fixed)
    return done


def hallucinated(source: Source, task: Task, files: Mapping[str, str]) -> tuple[str, ...]:
    """Names of a repaired module that are nowhere: those that nothing binds, and those that it takes from modules which
    lack them. What the reference does is not held against it. Blocks."""
    text = files[task.module]
    of_others = unknown_names(task.fixed)  # a function alone reads what its module has
    unbound = [name for name in unknown_names(text) if name not in of_others]
    repository, reference = dict(files), task.fixed
    path = task.place or task.module
    if task.place:
        repository = dict(source.modules)
        reference = repository[path]
        text = reference.replace(task.fixed.rstrip("\n"), text.rstrip("\n"), 1)
    return tuple(sorted({*unbound, *invented_names(text, path, repository, reference)}))


def edited(source: Source, task: Task, answer: Answer) -> bool:
    """Whether an answer's calls leave the module as the reference has it."""
    files = Files(source, task)
    for call in answer.calls:
        if call.name == "edit_file":
            files.call(call)
    return same_tree(files.now[task.module], task.fixed)


def _turn(answer: Answer) -> dict[str, Any]:
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in answer.calls
    ]
    return {"role": "assistant", "content": answer.text or None, "tool_calls": calls}
