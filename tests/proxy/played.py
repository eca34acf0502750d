"""Plays one guarded response over a script and tells what everybody got: `>>` asked of the engine, `<<` sent.

Must not: assert more than what holds for every response.
Invariant: the lines do not depend on how text was cut into deltas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.conversation import ChatRequest, Message, Tool
from proxy.events import Event, Failed, Finished, Started, TextDelta, ThinkingDelta, ToolCall
from proxy.guard.session import GuardedSession
from proxy.incidents import Closure, Incident, Judgement
from proxy.replays.capture import Capture
from tests.proxy.scripted import FAST, Script, ScriptedBackend, ScriptedGeneration, call_text

STRING = {"type": "string"}
TOOLS = (
    Tool("ls", parameters={"properties": {"path": STRING}, "required": ["path"], "additionalProperties": False}),
    Tool("move", parameters={"properties": {"steps": {"type": "integer"}}}),
)
REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),), TOOLS, request_id="req_1")
LS = call_text("ls", path="src")
GOOD = '<< call 0 ls {"path":"src"}'


@dataclass
class Sink:
    """An incident store that remembers."""

    incidents: list[Incident] = field(default_factory=list)
    closures: list[Closure] = field(default_factory=list)
    captures: list[Capture | None] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        self.incidents.append(incident)
        self.captures.append(capture)

    def closed(self, closure: Closure) -> None:
        self.closures.append(closure)

    def judged(self, judgement: Judgement) -> None:
        self.judgements.append(judgement)


@dataclass
class Played:
    """One response and its traces."""

    events: list[Event]
    sink: Sink
    generation: ScriptedGeneration

    @property
    def finished(self) -> Finished:
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    def told(self) -> list[str]:
        """What the client got, neighbouring deltas joined."""
        lines: list[str] = []
        for event in self.events:
            match event:
                case TextDelta(text) | ThinkingDelta(text):
                    mark = "<< text " if isinstance(event, TextDelta) else "<< thinking "
                    before = lines.pop() if lines and lines[-1].startswith(mark) else mark
                    lines.append(before + text)
                case ToolCall(index, name, arguments):
                    lines.append(f"<< call {index} {name} {arguments}")
                case Finished(reason, mode=mode):
                    lines.append(f"<< finished {reason} in {mode}")
                case Failed(kind, message):
                    lines.append(f"<< failed {kind}: {message}")
        return lines

    def traces(self) -> list[str]:
        """What happened behind the client's back."""
        lines = [f">> rewind to {to} in {mode}, {rebuild}" for to, mode, rebuild in self.generation.rewinds]
        for opened, closed in zip(self.sink.incidents, self.sink.closures, strict=True):
            assert opened.id == closed.id
            lines.append(f"<< incident {opened.detector} {opened.action} {closed.outcome}")
            lines.append(f"<< blame {closed.culprit} {closed.certainty}")
        return lines


def play(
    script: Script | str,
    policy: Policy | None = None,
    mode: DecodeMode = FAST,
    clock: Callable[[], float] | None = None,
    **changes: Any,
) -> Played:
    backend, sink = ScriptedBackend(script), Sink()

    async def run() -> list[Event]:
        session = GuardedSession(replace(REQUEST, **changes), backend, policy or Policy(), sink, mode, clock=clock)
        return [event async for event in session.events()]

    events = asyncio.run(run())
    assert isinstance(events[0], Started)
    assert [isinstance(event, Finished | Failed) for event in events].count(True) == 1
    assert backend.generations[0].closes >= 1
    return Played(events, sink, backend.generations[0])
