"""One guarded response as a state machine: backend deltas come in, what the client may have goes out.

    next step -> observe it -> a finding? -> the policy decides -> go on: release what may leave
                                                                -> rewind: forget, go on in a safer mode
                                                                -> end: with a notice, or as a failure

Must not: know a wire format or a detector's rules, or retry anything after the client has seen part of it.
Invariant: the events are Started, deltas and valid calls, then exactly one Finished or Failed; what was sent
is never contradicted, because a rewind never goes before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import structlog

from detectors.channels import CALL_CLOSE, CALL_OPEN, Piece
from detectors.finding import Finding, Grade
from detectors.mended_call import MendedCall, mend_call
from detectors.stall import StallDetector, engine_finding
from detectors.watch import ReadCall, Said, first_refused
from policies.blame import END_OF_TURN
from policies.ladder import landing
from policies.modes import DecodeMode
from policies.notice import notice
from policies.policy import Continue, Decision, End, Repair, Rewind, Situation, Start, Wait, decide
from proxy.backends.base import Delta, Generation, RewindReport
from proxy.backends.errors import BackendError, EngineLost
from proxy.events import Event, Failed, Finished, FinishReason, Started, TextDelta
from proxy.guard.hold_clock import HoldClock
from proxy.guard.holdback import HoldBack
from proxy.guard.logprobs import LogprobLedger
from proxy.guard.observers import Observers, text_of
from proxy.guard.setting import Setting
from proxy.guard.steps import MayWait, Steps
from proxy.guard.transcript import Transcript
from proxy.guard.trips import Trips
from proxy.guard.watchdog import Stalled, Watchdog
from proxy.incidents import Outcome

log = structlog.get_logger()
_closing: set[asyncio.Task[None]] = set()
"""Generations that are closed behind a step which may never end; the event loop itself keeps no task alive."""


class GuardedResponse:
    """What was said so far, what of it was sent, and in which mode it goes on."""

    def __init__(self, setting: Setting, generation: Generation, observers: Observers) -> None:
        self._setting, self._generation, self._observers = setting, generation, observers
        self._request, self._policy = setting.request, setting.policy
        self._mode, self._whole = setting.mode, setting.whole
        self._rewinds = 0
        self._recomputed = False
        self._transcript = Transcript()
        logprobs = None if self._request.logprobs is None else LogprobLedger(self._transcript)
        self._holdback = HoldBack(self._request.stop, self._policy.hold_text_chars, logprobs)
        self._hold_clock = HoldClock(self._policy.hold_call_s, setting.clock)
        self._holds_suspicious = self._policy.action == "enforce"
        self._trips = Trips(
            self._request, setting.backend, generation, setting.incidents, setting.origin, setting.remember
        )
        self._accused: Finding | None = None
        self._awaited: Finding | None = None
        self._ending: End | None = None
        self._mended: dict[int, ReadCall] = {}
        self._stalled, self._left = False, list[Event]()
        watchdog = Watchdog(self._gives_up(), StallDetector(setting.stall))
        self._steps = Steps(generation, self._transcript, watchdog, self._hold_clock, setting.clock, setting.limit)

    def begin(self, finding: Finding, start: Continue | Start | End, mode: DecodeMode) -> None:
        """What was known before the first token, and what follows from it. mode: that was asked for."""
        self._trips.open(finding, start, mode, self._transcript)
        if isinstance(start, End):
            self._accused, self._ending = finding, start

    async def events(self) -> AsyncGenerator[Event, None]:
        # Before Started, so that an early failure can still become a status code.
        try:
            delta = None if self._ending else await self._next()
        except BackendError:
            self._trips.close("ended", "", self._transcript)
            raise
        yield Started(self._generation.prompt_tokens, self._generation.cached_tokens)
        try:
            decision: Decision = self._ending or Continue()
            while delta is not None:
                decision = await self._take(delta)
                if isinstance(decision, End):
                    break
                if isinstance(decision, Continue):
                    for event in self._release():
                        yield event
                    if delta.end is not None:
                        break
                    await self._keep_within(delta.step.context)
                delta = await self._next()
            for event in self._end(decision) if isinstance(decision, End) else self._finish(delta):
                yield event
        except Exception as error:
            told = error if isinstance(error, BackendError) else BackendError("the response could not be completed")
            if told is not error:
                log.exception("session.failed", request_id=self._request.request_id)
            for event in self._left:
                yield event
            yield self._fail(told.kind, str(told))

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

    # A step comes

    async def _next(self) -> Delta | None:
        try:
            return await self._steps.next(self._may_wait(), self._late)
        except BaseException as error:
            self._settle()
            if isinstance(error, Stalled):
                self._stalled = True
                self._late(error.finding)
            elif isinstance(error, EngineLost):
                self._late(engine_finding(len(self._transcript), error.trouble.reason))
            raise

    def _may_wait(self) -> MayWait:
        watch = self._observers.watch
        if watch.is_in_tag:
            return "no"
        if watch.call_began is not None:
            return "for any" if watch.call_name else "no"  # a rule may be for the call's name
        # the first words leave at once, and what may be a loop is looked at closely
        return "in a row" if self._holdback.undelivered and not watch.suspicious else "no"

    def _late(self, finding: Finding) -> None:
        """A step does not come. Nothing can be done but to tell, and to end what cannot be completed."""
        situation = self._situation(finding, can_rewind=False)
        decision = decide(finding, situation, self._policy)
        self._trips.open(finding, decision, self._mode, self._transcript, situation=situation)

    def _gives_up(self) -> bool:
        """Does the policy end a response whose step is lost? Else it is waited for."""
        lost = Finding("stall.step", Grade.ABORT, "engine", 0, 0, "")
        return isinstance(decide(lost, self._situation(lost, can_rewind=False), self._policy), End)

    def _settle(self) -> None:
        """No step comes any more: those that wait for one are watched now, what is found in them is told, and what was
        said before that may leave, unless that is accused by it."""
        decision: Decision = Continue()
        for delta in self._steps.take():
            for said, finding in self._observers.observe(delta, self._transcript, self._trips):
                if finding is not None and not isinstance(decision, End):
                    situation = self._situation(finding, can_rewind=False)
                    decision = decide(finding, situation, self._policy)
                    self._record(finding, decision, situation, (), None)
                if isinstance(decision, Continue):
                    self._push(said)
        if isinstance(decision, End):
            self._holdback.drop_from(decision.keep)
        self._left = self._release()

    async def _take(self, last: Delta) -> Decision:
        """Watches the tokens of this step and of those before it that could wait. Nothing of a step leaves before all
        of it was watched."""
        for delta in self._steps.take(last):
            for said, finding in self._observers.observe(delta, self._transcript, self._trips):
                if finding is None and self._awaited is None:  # nearly every token
                    self._push(said)
                    continue
                decision = await self._weigh(said, finding, last)
                if not isinstance(decision, Continue):
                    return decision
        if last.end is None and (late := self._held_too_long()) is not None:
            return await self._act(late, last, [])
        return Continue()

    async def _weigh(self, said: Sequence[Said], finding: Finding | None, delta: Delta) -> Decision:
        """Hands on what was said if nothing was found. A finding that waits for its call's end comes with that."""
        refused = first_refused(said)
        if self._awaited is not None and refused is not None:
            finding, self._awaited = refused.cut_off or self._awaited, None
        if finding is None:
            self._push(said)
            return Continue()
        return await self._act(finding, delta, said)

    def _held_too_long(self) -> Finding | None:
        watch = self._observers.watch
        if watch.call_began is None:
            return None
        self._hold_clock.hold(int(watch.channel.partition(":")[2]))
        at = max(watch.call_began, len(self._transcript) - 1)
        return self._hold_clock.finding(watch.channel, at, watch.call_began, watch.call_name, watch.call_chars)

    # A finding is decided on

    async def _act(self, finding: Finding, delta: Delta, said: Sequence[Said]) -> Decision:
        """Decides on a finding and does it, except for ending the response. said: what came with it."""
        refused = first_refused(said) if self._policy.repair else None
        mended = None if refused is None else mend_call(refused.body, self._setting.schemas)
        situation = self._situation(finding, mendable=mended is not None)
        decision = decide(finding, situation, self._policy)
        if isinstance(decision, Rewind) and (rungs := self._setting.backend.capabilities.ladder):
            # another server goes on, from what the client has got of this one
            decision = replace(decision, to=self._holdback.undelivered, mode=landing(decision.mode, rungs))
        if isinstance(decision, Rewind) and refused is not None:  # a call is one unit, also when its end was awaited
            decision = replace(decision, to=min(decision.to, max(refused.first, self._holdback.undelivered)))
        lost = self._lost(decision.to, delta) if isinstance(decision, Rewind) else ()
        self._record(finding, decision, situation, lost, mended if isinstance(decision, Repair) else None)
        match decision:
            case Wait():
                self._awaited = finding
                self._push(said)
                return Continue()
            case Continue():
                if finding.detector.startswith("loop."):
                    self._holds_suspicious = decision.hold
                self._push(said)
            case Rewind():
                await self._rewind(decision)
            case Repair():
                assert mended is not None and refused is not None
                self._mended[refused.first] = refused.mended(mended)
                self._push(said)
                return Continue()
            case End():
                self._push(text_of(said))
                self._accused = finding
        return decision

    def _record(
        self, finding: Finding, decision: Decision, at: Situation, lost: tuple[int, ...], mended: MendedCall | None
    ) -> None:
        if finding.grade is Grade.SUSPECT and isinstance(decision, Continue):
            self._trips.suspect(finding)
        elif not isinstance(decision, Wait) and decision != Continue(hold=True):
            self._trips.open(finding, decision, self._mode, self._transcript, lost, mended, at)

    def _situation(self, finding: Finding, *, can_rewind: bool = True, mendable: bool = False) -> Situation:
        watch = self._observers.watch
        return Situation(
            self._mode,
            self._rewinds,
            self._holdback.undelivered,
            watch.call_began,
            can_rewind and self._can_rewind(),
            mendable,
            str(finding.evidence.get("tool", watch.call_name)),
            self._recomputed,
        )

    def _can_rewind(self) -> bool:
        """From the last of but certain rungs there is no way on."""
        capabilities = self._setting.backend.capabilities
        return capabilities.rewinds and (not capabilities.ladder or str(self._mode) != capabilities.ladder[-1])

    def _lost(self, to: int, delta: Delta) -> tuple[int, ...]:
        """Ids that a rewind discards, the end of the turn and what was not yet observed among them."""
        end = (END_OF_TURN,) if delta.end == "stop" else ()
        return (*self._transcript.ids[to:], *self._transcript.coming, *end)

    async def _rewind(self, decision: Rewind) -> None:
        self._recomputed = self._recomputed or decision.mode == self._mode
        self._trips.rewound(await self._go_on(decision))
        self._rewinds, self._awaited, self._steps.limit = self._rewinds + 1, None, None
        if self._setting.budget is not None:
            self._setting.budget.spend()

    async def _keep_within(self, context: int) -> None:
        """Leaves a mode where trust in it ends. Nothing is wrong, so nothing is discarded and no rewind is spent."""
        limit = self._steps.limit
        capabilities = self._setting.backend.capabilities
        if limit is None or self._steps.is_within(context) or not capabilities.rewinds or capabilities.ladder:
            return
        self._steps.limit = None
        before = self._mode
        await self._go_on(Rewind(len(self._transcript), limit.mode, "none"))
        log.info(
            "mode.left",
            request_id=self._request.request_id,
            mode_before=str(before),
            mode_after=str(self._mode),
            context=context,
        )

    async def _go_on(self, decision: Rewind) -> RewindReport:
        """Discards, then says the kept tokens again: the client gets of them what it has not got."""
        with self._hold_clock:
            report = await self._generation.rewind(decision.to, decision.mode, decision.rebuild)
        self._transcript.rewound(report)
        self._mode = report.mode
        # What stays is read again, and a call that was mended must come out as it was sent.
        self._mended = {first: call for first, call in self._mended.items() if call.last < report.position}
        self._holdback.restart()
        if self._setting.backend.capabilities.ladder:  # another server begins anew
            self._holdback.begins_anew(report.position, self._observers.watch.channel == "thinking")
        for said in self._observers.rewound(report.mode, self._transcript.tokens):
            self._push(said)
        return report

    # Something leaves

    def _push(self, said: Sequence[Said]) -> None:
        for each in said:
            if isinstance(each, Piece):
                self._holdback.push(each)
            elif (mended := self._mended.get(each.first)) is not None:
                self._holdback.push(mended)
            elif each.violation is None or each.name:
                self._holdback.push(each)
            else:  # observed, and no object to deliver it as: the client gets what the model wrote
                close = "" if each.violation.detector == "tool.truncated" else CALL_CLOSE
                self._holdback.push(Piece("text", f"{CALL_OPEN}{each.body}{close}", each.last))

    def _release(self) -> list[Event]:
        watch = self._observers.watch
        if watch.call_began is None:
            self._hold_clock.release()
        if self._whole:
            return []
        return self._holdback.release(self._holds_suspicious and watch.suspicious)

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
        if end.cause == "upstream_failed":
            return [*events, self._fail("upstream", str(self._accused.evidence.get("told", self._accused.reason)))]
        before = "\n\n" if self._holdback.ends_in_text else ""
        events.append(TextDelta(before + notice(self._accused, end)))
        reason: FinishReason = "length" if end.cause == "truncated_call" else "stop"
        return [*events, self._finished(reason, None, "recovered")]

    def _finished(self, reason: FinishReason, stop: str | None, outcome: Outcome) -> Finished:
        if self._holdback.calls:
            reason, stop = "tool_calls", None
        watch, totals = self._observers.watch, self._transcript.totals
        self._trips.called(watch.calls.digest)
        self._trips.close(outcome, reason, self._transcript)
        return Finished(
            reason=reason,
            usage=self._transcript.usage(self._generation, watch.thinking_tokens, self._holdback.untold),
            timings=self._transcript.timings(self._generation),
            mode=str(self._mode),
            stop_sequence=stop,
            incidents=self._trips.ids,
            token_ids=self._transcript.ids,
            drafts=totals.by_source,
            longest_draft=totals.longest_draft,
            by_position=totals.by_position,
        )

    def _fail(self, kind: str, message: str) -> Finished | Failed:
        """A client has begun to act on a call that was sent: an error now would make some ask for it again."""
        if self._holdback.calls and not self._whole:
            return self._finished("stop", None, "ended")
        self._trips.close("ended", "", self._transcript)
        return Failed(kind, message)
