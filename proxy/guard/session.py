"""A guarded session: what a request is admitted, begun and cleaned up with; `proxy.guard.response` runs it.

Must not: look at a delta, or let a generation outlive whoever reads its events.
Invariant: once something is generated, it is closed and all of its incidents are, however the reading ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from detectors.call_history import find_loop
from detectors.drift.memory import DriftMemory
from detectors.finding import Finding
from detectors.history_scrub import LoopDigest
from detectors.settings import DEFAULT, DetectorSettings
from detectors.tool_schema import ToolSchemas
from policies.ladder import landing
from policies.modes import PLAIN, DecodeMode
from policies.policy import Continue, End, Policy, Start, decide_start
from policies.trust import Limit
from proxy.backends.base import Backend
from proxy.backends.errors import BackendError
from proxy.conversation import ChatRequest
from proxy.events import Event
from proxy.guard.admission import admit
from proxy.guard.observers import Observers
from proxy.guard.response import GuardedResponse
from proxy.guard.session_budget import SessionBudget
from proxy.guard.setting import Setting
from proxy.guard.unbegun import tell_unbegun
from proxy.incidents import NOWHERE, IncidentSink, Origin

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class GuardedSession:
    """One request. Every call of `events()` generates anew; closing it stops the generation at once.

    mode: what decoding starts in, unless the history shows a loop of calls or the session's budget is spent.
    starts_thinking: the chat template opens `<think>` in the prompt. shadow: what clean recomputations have shown so
    far, of all responses; None = of this one alone. detectors: the numbers that they go by. budget: the session's
    rewinds, None = no limit. clock: seconds that the engine's work is measured by, None = the event loop's. origin: of
    the rules. limit: of the context up to which `mode` is trusted, None = there is none. remember: told of a loop that
    was cut after some of it was sent. scrubbed: characters of such loops that were taken out of the request. whole: who
    reads the events hands nothing of them on before the end, so that until then all of them can be taken back.
    """

    request: ChatRequest
    backend: Backend
    policy: Policy
    incidents: IncidentSink
    mode: DecodeMode
    starts_thinking: bool = False
    shadow: DriftMemory | None = None
    detectors: DetectorSettings = DEFAULT
    budget: SessionBudget | None = None
    clock: Callable[[], float] | None = None
    origin: Origin = NOWHERE
    limit: Limit | None = None
    remember: Callable[[LoopDigest], None] | None = None
    scrubbed: int = 0
    whole: bool = False

    async def events(self) -> AsyncGenerator[Event, None]:
        """Raises BackendError while nothing was sent, also for a tool with a bad schema; later: Failed."""
        schemas = admit(self.request, self.backend.capabilities)
        known, mode = self._decide_start()
        origin = self.origin
        if origin.override != self.policy.override:
            origin = replace(origin, override=self.policy.override)
        try:
            generation = await self.backend.generate(self.request, mode)
        except BackendError as error:
            tell_unbegun(error, self.request, self.backend, self.policy, mode, self.incidents, origin)
            raise
        observers, setting = self._observers(schemas, mode), self._setting(schemas, mode, origin)
        response = GuardedResponse(setting, generation, observers)
        for finding, start in known:
            response.begin(finding, start, self.mode)
        try:
            async with aclosing(response.events()) as events:
                async for event in events:
                    yield event
        finally:
            response.abandon()
            await response.close()

    def _observers(self, schemas: ToolSchemas, mode: DecodeMode) -> Observers:
        return Observers(
            self.request,
            schemas,
            self.policy.hold_call_chars,
            mode,
            self.detectors,
            starts_thinking=self.starts_thinking,
            shadow=self.shadow,
            exact=self.backend.capabilities.exactness == "bitwise",
            placed=self.backend.info.tool_format == "json",
            own_ids=self.backend.capabilities.token_ids,
        )

    def _setting(self, schemas: ToolSchemas, mode: DecodeMode, origin: Origin) -> Setting:
        return Setting(
            self.request,
            self.backend,
            self.policy,
            self.incidents,
            origin,
            schemas,
            mode,
            self.budget,
            self.clock or asyncio.get_running_loop().time,
            self.detectors.stall,
            self.limit if mode == self.mode else None,
            self.remember,
            self.whole,
        )

    def _decide_start(self) -> tuple[list[tuple[Finding, Continue | Start | End]], DecodeMode]:
        """What is to be told of before anything is generated, with what follows from it, and the mode to begin in."""
        loop = find_loop(self.request.messages, self.detectors.history)
        known: list[tuple[Finding, Continue | Start | End]] = []
        if loop is not None:
            finding = loop.finding()
            start = decide_start(finding, self.mode, self.policy)
            known.append((finding, start))
            if not isinstance(start, Continue):
                return known, self._landed(start.mode) if isinstance(start, Start) else self.mode
        if self.mode == PLAIN or self.budget is None or (spent := self.budget.exhausted()) is None:
            return known, self.mode
        begun = decide_start(spent, self.mode, self.policy)
        log.warning("session.spent", request_id=self.request.request_id, session=self.request.session, **spent.evidence)
        # One incident tells it; a session may go on for hundreds of requests.
        if isinstance(begun, End) or self.budget.first_telling():
            known.append((spent, begun))
        return known, self._landed(begun.mode) if isinstance(begun, Start) else self.mode

    def _landed(self, mode: DecodeMode) -> DecodeMode:
        return landing(mode, self.backend.capabilities.ladder)
