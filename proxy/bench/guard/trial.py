"""One response through the guard, and all that is known about it: what the client got, when, and what was recorded.

Must not: judge. Invariant: `sent_before` are the characters and calls that had left when the first incident opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.backends.base import Backend
from proxy.backends.errors import BackendError
from proxy.bench.guard.tasks import Task
from proxy.events import Failed, Finished, TextDelta, ThinkingDelta, ToolCall
from proxy.guard.session import GuardedSession
from proxy.incidents import Closure, Incident, Judgement
from proxy.replays.capture import Capture


@dataclass(frozen=True, slots=True)
class Said:
    """What a client got. end: the finish reason, or `failed: kind`."""

    thinking: str
    text: str
    calls: tuple[tuple[str, str], ...]
    end: str
    ids: tuple[int, ...] = ()

    def same(self, other: Said) -> bool:
        """Is it the same to a client?"""
        mine = (self.thinking, self.text, self.calls, self.end)
        return mine == (other.thinking, other.text, other.calls, other.end)


@dataclass(slots=True)
class Trial:
    """A response and its traces. The lists are in the order of the incidents."""

    said: Said = field(default_factory=lambda: Said("", "", (), ""))
    incidents: list[Incident] = field(default_factory=list)
    captures: list[Capture | None] = field(default_factory=list)
    closures: list[Closure] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    sent_before: tuple[str, tuple[tuple[str, str], ...]] = ("", ())
    dead_drafters: int = 0
    _text: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _calls: list[tuple[str, str]] = field(default_factory=list)

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        if not self.incidents:
            self.sent_before = ("".join(self._text), tuple(self._calls))
        self.incidents.append(incident)
        self.captures.append(capture)

    def closed(self, closure: Closure) -> None:
        self.closures.append(closure)

    def judged(self, judgement: Judgement) -> None:
        self.judgements.append(judgement)

    def take(self, event: object) -> None:
        match event:
            case TextDelta(text):
                self._text.append(text)
            case ThinkingDelta(text):
                self._thinking.append(text)
            case ToolCall(_, name, arguments):
                self._calls.append((name, arguments))
            case Finished(reason, token_ids=ids):
                self._end(reason, ids)
            case Failed(kind):
                self._end(f"failed: {kind}")

    def fail(self, error: BackendError) -> None:
        """It failed before anything was sent."""
        self._end(f"failed: {error.kind}")

    def _end(self, end: str, ids: tuple[int, ...] = ()) -> None:
        self.said = Said("".join(self._thinking), "".join(self._text), tuple(self._calls), end, ids)


async def respond(backend: Backend, task: Task, mode: DecodeMode, policy: Policy, **session: object) -> Trial:
    """Runs one task to its end. session: further fields of the GuardedSession."""
    trial = Trial()
    guarded = GuardedSession(task.request, backend, policy, trial, mode, **session)  # type: ignore[arg-type]
    try:
        async for event in guarded.events():
            trial.take(event)
    except BackendError as error:
        trial.fail(error)
    return trial


@asynccontextmanager
async def started(backend: Backend) -> AsyncIterator[Backend]:
    """The backend, started, and stopped in the end however it went."""
    try:
        await backend.start()
        yield backend
    finally:
        with suppress(BackendError):
            await backend.stop()
