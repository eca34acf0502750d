"""A guarded response: pulls tokens from a backend, watches them, and sends on only what may leave.

Must not: know a wire format or a detector's rules, or retry anything after the client has seen part of it.
Invariant: the events are Started, deltas and valid calls, then exactly one Finished or Failed; what was sent
is never contradicted, because a rewind never goes before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from detectors.audit import audit_finding, nonfinite_finding
from detectors.call_history import find_loop
from detectors.channels import CALL_CLOSE, CALL_OPEN, Piece
from detectors.charset import scripts_of
from detectors.drift.monitor import DriftMonitor
from detectors.drift.sprt import ShadowAgreement
from detectors.finding import Finding, Grade
from detectors.mended_call import mend_call
from detectors.settings import DEFAULT, DetectorSettings
from detectors.stall import StallDetector
from detectors.tool_schema import ToolSchemas
from detectors.watch import Said, Watch, first_refused
from policies.blame import END_OF_TURN
from policies.modes import DecodeMode
from policies.notice import notice
from policies.policy import (
    Continue,
    Decision,
    End,
    Policy,
    Repair,
    Rewind,
    Situation,
    Start,
    Wait,
    decide,
    decide_start,
)
from proxy.admission import admit
from proxy.backends.base import Backend, BackendError, Delta, Generation
from proxy.conversation import ChatRequest
from proxy.events import Event, Failed, Finished, FinishReason, Started, TextDelta
from proxy.holdback import HoldBack
from proxy.incidents import NOWHERE, IncidentSink, Origin, Outcome
from proxy.logprobs import LogprobLedger
from proxy.transcript import Transcript
from proxy.trips import Trips
from proxy.watchdog import Stalled, Watchdog

log = structlog.get_logger()
_closing: set[asyncio.Task[None]] = set()
"""Generations that are closed behind a step which may never end; the event loop itself keeps no task alive."""


@dataclass(frozen=True, slots=True)
class GuardedSession:
    """One request. Every call of `events()` generates anew; closing it stops the generation at once.

    mode: what decoding starts in, unless the history shows a loop of calls.
    starts_thinking: the chat template opens `<think>` in the prompt. shadow: what clean recomputations have shown so
    far, of all responses; None = of this one alone. detectors: the numbers that they go by. origin: of the rules.
    """

    request: ChatRequest
    backend: Backend
    policy: Policy
    incidents: IncidentSink
    mode: DecodeMode
    starts_thinking: bool = False
    shadow: ShadowAgreement | None = None
    detectors: DetectorSettings = DEFAULT
    origin: Origin = NOWHERE

    async def events(self) -> AsyncGenerator[Event, None]:
        """Raises BackendError while nothing was sent, also for a tool with a bad schema; later: Failed."""
        schemas = admit(self.request, self.backend.capabilities)
        loop = find_loop(self.request.messages, self.detectors.history)
        finding = None if loop is None else loop.finding()
        start = decide_start(finding, self.mode, self.policy)
        mode = start.mode if isinstance(start, Start) else self.mode
        generation = await self.backend.generate(self.request, mode)
        response = _Response(self, generation, schemas, mode)
        if finding is not None:
            response.begin(finding, start)
        try:
            async with aclosing(response.events()) as events:
                async for event in events:
                    yield event
        finally:
            response.abandon()
            await response.close()


class _Response:
    """The state of one response: what was said so far, what of it was sent, and in which mode it goes on."""

    def __init__(self, session: GuardedSession, generation: Generation, schemas: ToolSchemas, mode: DecodeMode) -> None:
        self._session, self._generation, self._schemas = session, generation, schemas
        self._policy = session.policy
        self._mode = mode
        self._rewinds = 0
        self._scripts = scripts_of(message.text for message in session.request.messages)
        self._watch = self._new_watch()
        exact = session.backend.capabilities.exactness == "bitwise"
        self._drift = DriftMonitor(self._mode.codec, session.shadow, exact=exact, settings=session.detectors.drift)
        self._transcript = Transcript()
        logprobs = None if session.request.logprobs is None else LogprobLedger(self._transcript)
        self._holdback = HoldBack(session.request.stop, self._policy.hold_text_chars, logprobs)
        self._trips = Trips(session.request, session.backend, generation, session.incidents, session.origin)
        self._accused: Finding | None = None
        self._awaited: Finding | None = None
        self._ending: End | None = None
        stall = StallDetector(session.detectors.stall)
        self._watchdog = Watchdog(self._late, self._policy.action == "enforce", stall)
        self._stalled = False

    def begin(self, finding: Finding, start: Continue | Start | End) -> None:
        """What the history shows, and what follows from it."""
        self._trips.open(finding, start, self._session.mode, self._transcript, ())
        if isinstance(start, End):
            self._accused, self._ending = finding, start

    async def events(self) -> AsyncGenerator[Event, None]:
        # Before Started, so that an early failure can still become a status code.
        delta = None if self._ending else await self._next()
        yield Started(self._generation.prompt_tokens, self._generation.cached_tokens)
        try:
            if self._ending is not None:
                for event in self._end(self._ending):
                    yield event
                return
            while delta is not None:
                decision = await self._take(delta)
                if isinstance(decision, End):
                    for event in self._end(decision):
                        yield event
                    return
                if isinstance(decision, Continue):
                    for event in self._holdback.release(self._must_hold()):
                        yield event
                    if delta.end is not None:
                        break
                delta = await self._next()
            for event in self._finish(delta):
                yield event
        except BackendError as error:
            yield self._fail(error.kind, str(error))
        except Exception:
            log.exception("session.failed", request_id=self._session.request.request_id)
            yield self._fail("internal", "the response could not be completed")

    def abandon(self) -> None:
        """Nobody listens any more; without effect on a response that came to its end."""
        self._trips.close("abandoned", "", self._transcript)

    async def close(self) -> None:
        """Closes the generation; behind a step that was given up nobody waits."""
        if not self._stalled:
            await self._generation.close()
            return
        task = asyncio.ensure_future(self._generation.close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def _next(self) -> Delta | None:
        try:
            return await self._watchdog.wait(self._generation.next(), len(self._transcript))
        except Stalled as stalled:
            self._stalled = True
            self._late(stalled.finding)
            raise

    def _late(self, finding: Finding) -> None:
        """A step does not come. Nothing can be done but to tell, and to end what cannot be completed."""
        self._trips.open(finding, self._decide(finding), self._mode, self._transcript)

    async def _take(self, delta: Delta) -> Decision:
        """Watches the tokens of one step. Nothing of a step leaves before all of it was watched."""
        self._transcript.count(delta)
        if (audit := delta.step.audit) is not None:
            finding = audit_finding(delta.position, audit.rows, audit.mismatch, audit.max_abs_diff, audit.compared)
            if finding is not None:
                decision = await self._act(finding, delta, [])
                if not isinstance(decision, Continue):
                    return decision
        if (drift := self._drift.feed(delta.position, delta.tokens, delta.step)) is not None:
            decision = await self._act(drift, delta, [])
            if not isinstance(decision, Continue):
                return decision
        for position, token in enumerate(delta.tokens, delta.position):
            finding = nonfinite_finding(position, token.finite)
            if finding is not None:
                decision = await self._act(finding, delta, [])
                if not isinstance(decision, Continue):
                    return decision
            self._transcript.append(token)
            self._trips.redecoded(position, token.id)
            decision = await self._act_on(*self._watch.feed(position, token.id, token.text), delta)
            if not isinstance(decision, Continue):
                return decision
        if delta.end is None:
            return Continue()
        if delta.end == "stop":
            self._trips.redecoded(len(self._transcript), END_OF_TURN)
        return await self._act_on(*self._watch.finish(delta.end, delta.tail), delta)

    async def _act_on(self, said: list[Said], finding: Finding | None, delta: Delta) -> Decision:
        refused = first_refused(said)
        if self._awaited is not None and refused is not None:
            finding, self._awaited = refused.cut_off or self._awaited, None
        if finding is None:
            self._push(said)
            return Continue()
        return await self._act(finding, delta, said)

    async def _act(self, finding: Finding, delta: Delta, said: list[Said]) -> Decision:
        """Decides on a finding and does it, except for ending the response. said: what came with it."""
        refused = first_refused(said) if self._policy.repair else None
        mended = None if refused is None else mend_call(refused.body, self._schemas)
        decision = self._decide(finding, mended is not None)
        match decision:
            case Wait():
                self._awaited = finding
                self._push(said)
                return Continue()
            case Continue():
                if finding.grade > Grade.SUSPECT and self._policy.action == "observe":
                    self._trips.open(finding, decision, self._mode, self._transcript)
                elif finding.grade is Grade.SUSPECT:
                    self._trips.suspect(finding)
                self._push(said)
            case Rewind():
                end = (END_OF_TURN,) if delta.end == "stop" else ()
                lost = (*self._transcript.ids[decision.to :], *self._transcript.end_of(delta), *end)
                self._trips.open(finding, decision, self._mode, self._transcript, lost)
                await self._rewind(decision)
            case Repair():
                assert mended is not None and refused is not None
                self._trips.open(finding, decision, self._mode, self._transcript, mended=mended)
                self._push([refused.mended(mended) if each is refused else each for each in said])
                return Continue()
            case End():
                self._trips.open(finding, decision, self._mode, self._transcript)
                self._push([each for each in said if isinstance(each, Piece)])
                self._accused = finding
        return decision

    def _decide(self, finding: Finding, mendable: bool = False) -> Decision:
        situation = Situation(
            self._mode,
            self._rewinds,
            self._holdback.undelivered,
            self._watch.call_began,
            self._session.backend.capabilities.rewinds,
            mendable,
        )
        return decide(finding, situation, self._policy)

    async def _rewind(self, decision: Rewind) -> None:
        """Discards, then watches the kept tokens anew: all state is what it was at that token."""
        report = await self._generation.rewind(decision.to, decision.mode, decision.rebuild)
        self._trips.rewound(report)
        self._transcript.rewound(report)
        self._mode, self._rewinds = report.mode, self._rewinds + 1
        self._watch = self._new_watch()
        self._drift.rewound(report.mode.codec)
        self._holdback.restart()
        for position, token in enumerate(self._transcript.tokens):
            said, _ = self._watch.feed(position, token.id, token.text)
            self._push(said)

    def _push(self, said: list[Said]) -> None:
        for each in said:
            if isinstance(each, Piece) or each.violation is None or each.name:
                self._holdback.push(each)
            else:  # observed, and no object to deliver it as: the client gets what the model wrote
                close = "" if each.violation.detector == "tool.truncated" else CALL_CLOSE
                self._holdback.push(Piece("text", f"{CALL_OPEN}{each.body}{close}", each.last))

    def _must_hold(self) -> bool:
        return self._policy.action == "enforce" and self._watch.suspicious

    def _new_watch(self) -> Watch:
        session = self._session
        limit, thinking = self._policy.hold_call_chars, session.starts_thinking
        return Watch(self._schemas, limit, thinking, self._scripts, session.detectors)

    def _finish(self, delta: Delta | None) -> list[Event]:
        """The model has ended the response."""
        stop = delta.stop_sequence if delta is not None else None
        reason: FinishReason = delta.end if delta is not None and delta.end is not None else "stop"
        events = self._holdback.finish(stop)
        return [*events, self._finished(reason, stop, "recovered")]

    def _end(self, end: End) -> list[Event]:
        """We end the response: what came before is sent, then a notice says what is missing."""
        assert self._accused is not None
        self._holdback.drop_from(end.keep)
        events = self._holdback.finish(None)
        if end.cause == "engine_fault":
            return [*events, self._fail("internal", f"the engine cannot be trusted: {self._accused.reason}")]
        before = "\n\n" if self._holdback.ends_in_text else ""
        events.append(TextDelta(before + notice(self._accused, end)))
        reason: FinishReason = "length" if end.cause == "truncated_call" else "stop"
        return [*events, self._finished(reason, None, "recovered")]

    def _finished(self, reason: FinishReason, stop: str | None, outcome: Outcome) -> Finished:
        if self._holdback.calls:
            reason, stop = "tool_calls", None
        self._trips.called(self._watch.calls.digest)
        self._trips.close(outcome, reason, self._transcript)
        return Finished(
            reason=reason,
            usage=self._transcript.usage(self._generation, self._watch.thinking_tokens),
            timings=self._transcript.timings(self._generation),
            mode=str(self._mode),
            stop_sequence=stop,
            incidents=self._trips.ids,
            token_ids=self._transcript.ids,
            drafts=self._transcript.drafts,
        )

    def _fail(self, kind: str, message: str) -> Finished | Failed:
        """A client has begun to act on a call that was sent: an error now would make some ask for it again."""
        if self._holdback.calls:
            return self._finished("stop", None, "ended")
        self._trips.close("ended", "", self._transcript)
        return Failed(kind, message)
