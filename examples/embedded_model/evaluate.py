"""Measures a model on held-out repair tasks: the real tool loop, real edits, real tests, through the guarded engine.

    python -m examples.embedded_model.evaluate [--model DIR] [--tasks 100] [--mode plain] [--json FILE]

Must not: see the reference fix. Invariant: a task counts as repaired only if its own, unchanged tests pass on disk, and
a call counts as valid only if it was declared, well formed and valid against its schema.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from examples.agent import protocol
from examples.agent.workspace import Workspace
from examples.embedded_model.tasks import Task, make_task
from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.backends.base import Backend, Delta, Generation
from proxy.backends.builtin import BuiltinBackend
from proxy.conversation import ChatRequest, Message, PastCall, Tool
from proxy.events import Event, Finished, TextDelta, ToolCall
from proxy.guard.session import GuardedSession
from proxy.incidents import Closure, Incident, IncidentSink, Judgement
from proxy.replays.capture import Capture

MAX_TURNS = 12
MAX_TOKENS = 400
TOOLS = tuple(
    Tool(t["function"]["name"], t["function"]["description"], t["function"]["parameters"]) for t in protocol.TOOLS
)


@dataclass(slots=True)
class Score:
    """Sums over tasks. first: verify steps of which the first draft token was accepted, of `verified`."""

    tasks: int = 0
    repaired: int = 0
    calls: int = 0
    invalid: int = 0
    turns: int = 0
    tokens: int = 0
    verified: int = 0
    first: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """The shares that the bars are about; 0 where nothing was counted."""
        return {
            "repaired": self.repaired / max(self.tasks, 1),
            "valid_calls": self.calls / max(self.calls + self.invalid, 1),
            "first_draft_acceptance": self.first / max(self.verified, 1),
            "draft_acceptance": self.accepted / max(self.drafted, 1),
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
        }


class Counting:
    """A backend that counts what verify steps accept, and is otherwise the one it wraps."""

    def __init__(self, inner: Backend, score: Score) -> None:
        self._inner, self._score = inner, score
        self.info, self.capabilities = inner.info, inner.capabilities

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> Generation:
        generation = await self._inner.generate(request, mode)
        original, score = generation.next, self._score

        def count(delta: Delta) -> None:
            if delta.step.drafted:
                score.verified += 1
                score.first += delta.step.accepted > 0
                score.drafted += delta.step.drafted
                score.accepted += delta.step.accepted

        async def counted(waits: Callable[[Delta], bool] | None = None) -> Delta | None:
            def waits_counted(delta: Delta) -> bool:
                if waits is None or not waits(delta):
                    return False
                count(delta)
                return True

            delta = await original(waits_counted)
            if delta is not None:
                count(delta)
            return delta

        generation.next = counted  # type: ignore[method-assign]
        return generation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Incidents:
    """Counts calls that the model itself got wrong."""

    def __init__(self, score: Score) -> None:
        self._score = score

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        self._score.invalid += incident.detector.startswith("tool.")

    def closed(self, closure: Closure) -> None:
        pass

    def judged(self, judgement: Judgement) -> None:
        pass


@dataclass(slots=True)
class Run:
    """One task as the client saw it. events: everything that was sent but timings; ids: generated token ids."""

    repaired: bool = False
    events: list[Event] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


async def run_task(backend: Backend, task: Task, mode: DecodeMode, incidents: IncidentSink) -> Run:
    """Lets the model work until it answers without a call."""
    run = Run()
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), task)
        workspace = Workspace(Path(folder))
        opening = protocol.first_message(workspace.files(), workspace.run_tests())
        messages = [Message("system", protocol.SYSTEM_PROMPT), Message("user", opening)]
        for _ in range(MAX_TURNS):
            request = ChatRequest("evaluation", backend.info.id, tuple(messages), TOOLS, max_tokens=MAX_TOKENS)
            session = GuardedSession(request, backend, Policy(), incidents, mode)
            text, calls = "", []
            async for event in session.events():
                run.events.append(event)
                if isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, ToolCall):
                    calls.append(event)
                elif isinstance(event, Finished):
                    run.ids += event.token_ids
            if not calls:
                break
            past = tuple(PastCall(f"call_{i}", c.name, json.loads(c.arguments)) for i, c in enumerate(calls))
            messages.append(Message("assistant", text, calls=past))
            for call in past:
                result = await asyncio.to_thread(workspace.call, call.name, call.arguments)
                messages.append(Message("tool", result, call_id=call.id))
        run.repaired = tests_pass(workspace, task)
    return run


def write_files(folder: Path, task: Task) -> None:
    for name, content in task.files.items():
        (folder / name).write_text(content, encoding="utf-8")


def tests_pass(workspace: Workspace, task: Task) -> bool:
    """Whether the task's own tests are still what they were, and pass."""
    tests = f"test_{task.module}"
    unchanged = (workspace.directory / tests).read_text(encoding="utf-8") == task.files[tests]
    result = workspace.run_tests()
    return unchanged and "failed" not in result and "passed" in result


async def evaluate(folder: Path | None, tasks: Sequence[Task], mode: DecodeMode, show: bool = False) -> Score:
    """Runs all tasks in one mode, one after the other."""
    score = Score()
    inner = BuiltinBackend(folder, audit_every=0)
    await inner.start()
    backend = Counting(inner, score)
    started = time.perf_counter()
    try:
        for number, task in enumerate(tasks, 1):
            run = await run_task(backend, task, mode, Incidents(score))
            score.tasks += 1
            score.repaired += run.repaired
            score.tokens += len(run.ids)
            score.turns += sum(isinstance(event, Finished) for event in run.events)
            score.calls += sum(isinstance(event, ToolCall) for event in run.events)
            if not run.repaired:
                score.failed.append(f"{task.combination}: {task.old!r} should be {task.new!r}")
            if show:
                line = f"\r{number}/{len(tasks)} tasks, {score.repaired} repaired, {score.invalid} invalid calls"
                print(line, end="", file=sys.stderr, flush=True)
    finally:
        score.seconds = time.perf_counter() - started
        await inner.stop()
        if show:
            print(file=sys.stderr)
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded one)")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first held-out task")
    parser.add_argument("--mode", default="plain", help="plain, ngram, mtp or mtp+ngram")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write figures and failures here")
    options = parser.parse_args()
    tasks = [make_task(options.first + i, held_out=True) for i in range(options.tasks)]
    score = asyncio.run(evaluate(options.model, tasks, DecodeMode.parse(options.mode), show=True))
    for name, value in score.figures().items():
        print(f"{name:24} {value:.3f}")
    print(f"{'tasks':24} {score.tasks}, turns {score.turns}, calls {score.calls}, invalid {score.invalid}")
    for failure in score.failed:
        print(f"not repaired: {failure}")
    if options.json:
        options.json.write_text(json.dumps(asdict(score) | score.figures(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
