"""The incidents of one response: opens one per trip, follows what plain decoding says instead, closes them
all.

Must not: change what happens; it only tells of it.
Invariant: every incident that is opened is closed, however the response ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import structlog

from detectors.drift.cache import PROOFS
from detectors.drift.drafting import DeadDrafter
from detectors.finding import Finding
from detectors.history_scrub import LoopDigest
from detectors.mended_call import MendedCall
from policies.blame import END_OF_TURN, NOT_FINITE, Blame, BlameVerdict, Culprit
from policies.modes import PLAIN, DecodeMode
from policies.policy import Decision, End, Repair, Rewind, Situation, Start
from proxy.backends.base import Backend, RewindReport, Token
from proxy.conversation import ChatRequest
from proxy.guard.transcript import Transcript
from proxy.incidents import NOWHERE, Action, Closure, Incident, IncidentSink, Origin, Outcome, new_incident_id
from proxy.lanes.watch import WatchedBackend
from proxy.replays.capture import Capture
from proxy.replays.lane_blame import LaneBlame
from proxy.versions import versions

log = structlog.get_logger()
LOOPS = ("loop.", "struct.")
"""What the acceptance of drafts says something about."""
_OUTAGES = frozenset({"lane.failed", "lane.empty", "lane.finish"})
"""Findings about a lane that are not about what it said."""
_ACTIONS: Mapping[type, Action] = {Start: "start", Rewind: "rewind", Repair: "repair", End: "end"}


@dataclass(slots=True)
class _Trip:
    id: str
    finding: Finding
    outcome: Outcome
    plain: bool
    blame: Blame | LaneBlame | None = None
    report: RewindReport | None = None
    verdict: BlameVerdict | None = None
    loop: LoopDigest | None = None


class Made(Protocol):
    """What an incident tells of a generation."""

    @property
    def prompt_ids(self) -> tuple[int, ...]: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def seed(self) -> int: ...


class Trips:
    """Of one response. Positions are indices into its tokens. remember: told at its end of a loop that was sent in part
    and that plain decoding did not go on with; what it says too was meant."""

    def __init__(
        self,
        request: ChatRequest,
        backend: Backend,
        generation: Made,
        sink: IncidentSink,
        origin: Origin = NOWHERE,
        remember: Callable[[LoopDigest], None] | None = None,
    ) -> None:
        self._request, self._backend, self._generation, self._sink = request, backend, generation, sink
        self._origin, self._remember = origin, remember
        self._exact = backend.capabilities.exactness == "bitwise"
        self._trips: list[_Trip] = []
        self._own_ids = backend.capabilities.token_ids
        self._comparing: Blame | LaneBlame | None = None
        self._closed = False

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(trip.id for trip in self._trips)

    def open(
        self,
        finding: Finding,
        decision: Decision,
        mode: DecodeMode,
        transcript: Transcript,
        lost: tuple[int, ...] = (),
        mended: MendedCall | None = None,
        situation: Situation | None = None,
    ) -> None:
        """Records a trip before it is acted on. lost: ids that a rewind discards, or END_OF_TURN. situation: that was
        decided in, None before the first token."""
        if isinstance(decision, End | Repair) and (before := self._same_before(finding)) is not None:
            before.outcome = "ended"
            if isinstance(decision, End):
                return
        trip = _Trip(new_incident_id(), finding, "observed", mode == PLAIN or decision == Start(PLAIN))
        match decision:
            case Rewind(to):
                trip.outcome = "recovered"
                self._comparing = trip.blame = self._compare(finding, decision, mode, transcript, lost)
                if finding.detector in _OUTAGES:  # what was said until then is not what went wrong
                    trip.blame = self._comparing = None
                    trip.verdict = _without_comparison(finding, mode, acted=False)
                trip.loop = _sent_loop(finding, to, transcript)
            case Start():
                trip.outcome = "recovered"
                trip.verdict = _without_comparison(finding, mode, acted=False)
            case End() | Repair():
                trip.outcome = "ended" if isinstance(decision, End) else "recovered"
                trip.verdict = _without_comparison(finding, mode, audited=self._backend.capabilities.audits)
            case _:
                trip.verdict = _without_comparison(finding, mode, acted=False)
        self._trips.append(trip)
        incident = self._describe(trip, decision, mode, transcript, lost)
        incident = replace(incident, rule=decision.rule, situation=self._stood(situation))
        if isinstance(self._backend, WatchedBackend) and self._backend.watch and finding.detector.startswith(LOOPS):
            incident = replace(incident, evidence={**incident.evidence, **self._backend.watch.beside_loop(mode)})
        if mended is not None:
            evidence = {**incident.evidence, "mended": list(mended.mended)}
            incident = replace(incident, evidence=evidence, texts={"before": mended.before, "after": mended.arguments})
        self._sink.opened(incident, self._capture(finding, decision, mode, transcript, lost))
        log.warning(
            "incident.opened",
            incident=trip.id,
            request_id=incident.request_id,
            detector=incident.detector,
            reason=incident.reason,
            action=incident.action,
            rule=incident.rule,
            position=incident.position,
            tokens_rewound=incident.tokens_rewound,
        )

    def died(self, drafters: Iterable[DeadDrafter]) -> None:
        """Nothing of what they draft is accepted: a matter of speed, so no incident."""
        for dead in drafters:
            log.info("drafter.dead", request_id=self._request.request_id, source=dead.source, drafted=dead.drafted)

    def suspect(self, finding: Finding) -> None:
        """No incident, since nothing is wrong yet; but whoever looks into one later wants to know."""
        log.info(
            "finding.suspect",
            request_id=self._request.request_id,
            detector=finding.detector,
            reason=finding.reason,
            channel=finding.channel,
            position=finding.position,
        )

    def rewound(self, report: RewindReport) -> None:
        """The rewind that the last incident asked for has happened."""
        self._trips[-1].report = report

    @property
    def is_comparing(self) -> bool:
        """Somebody listens to `redecoded`."""
        return self._comparing is not None

    def redecoded(self, position: int, token: int, said: Token | None = None) -> None:
        """A token was decoded; the last incident with a rewind compares it with what it discarded. said: the token with
        its text, None = the turn has ended; it is what counts where the backend knows no ids."""
        if isinstance(self._comparing, LaneBlame):
            self._comparing.redecoded(position, token, said)
        elif self._comparing is not None:
            self._comparing.redecoded(position, token)

    def called(self, digest: str) -> None:
        """The calls of the response are known; if the history's loop goes on, a safer mode did not help."""
        for trip in self._trips:
            finding = trip.finding
            goes_on = finding.detector == "loop.history" and finding.evidence["following"] == digest
            if goes_on and trip.outcome != "ended":
                trip.outcome = "observed"
                if trip.plain:
                    trip.verdict = BlameVerdict(Culprit.MODEL, "likely", None, 0, 0, (), ())

    def close(self, outcome: Outcome, reason: str, transcript: Transcript) -> None:
        """The response is over. outcome: `recovered` leaves each incident its own; idempotent."""
        if self._closed:
            return
        self._closed = True
        for trip in self._trips:
            if outcome != "recovered" and trip.outcome == "recovered":
                trip.outcome = outcome
            verdict = trip.blame.verdict() if trip.blame is not None else trip.verdict
            assert verdict is not None
            if self._remember and trip.loop is not None and trip.blame is not None and trip.blame.differs:
                self._remember(trip.loop)
            log.info(
                "incident.closed",
                incident=trip.id,
                outcome=trip.outcome,
                culprit=str(verdict.culprit),
                certainty=verdict.certainty,
            )
            self._sink.closed(
                Closure(
                    id=trip.id,
                    outcome=trip.outcome,
                    culprit=verdict.culprit,
                    certainty=verdict.certainty,
                    finish_reason=reason,
                    milliseconds=trip.report.milliseconds if trip.report else 0.0,
                    rebuilt=trip.report.rebuilt if trip.report else 0,
                    completion_tokens=len(transcript),
                    discarded_tokens=transcript.discarded,
                    level=trip.report.level if trip.report else "",
                    proof=asdict(verdict),
                )
            )

    def _stood(self, situation: Situation | None) -> dict[str, Any]:
        """As JSON data; the name of a tool that nobody declared is the model's text, and no record's."""
        if situation is None:
            return {}
        tool = situation.tool if any(situation.tool == tool.name for tool in self._request.tools) else ""
        return {**asdict(situation), "mode": str(situation.mode), "tool": tool}

    def _compare(
        self, finding: Finding, rewind: Rewind, mode: DecodeMode, transcript: Transcript, lost: tuple[int, ...]
    ) -> Blame | LaneBlame:
        """What was discarded with what comes in its place."""
        shared = finding.detector == "drift.nonfinite" or (rewind.rebuild != "none" and self._is_shared(finding))

        def blame(said: tuple[int, ...]) -> Blame:
            return Blame(
                mode,
                rewind.to,
                _compared(finding, rewind.to, said),
                began=finding.began,
                exact=self._exact,
                audited=finding.detector == "drift.audit",
                proven=_proven(finding),
                after=rewind.mode,
                shared=shared,
            )

        if self._backend.info.tool_format != "json":
            return blame(lost)
        words = transcript.spelt(rewind.to) + ((END_OF_TURN,) if END_OF_TURN in lost else ())
        return LaneBlame(blame(words), blame(lost) if self._own_ids else None, rewind.to)

    def _is_shared(self, finding: Finding) -> bool:
        """Has a rebuild computed more again than what drafts have touched?"""
        return self._generation.cached_tokens > 0 or finding.detector == "drift.shadow"

    def _same_before(self, finding: Finding) -> _Trip | None:
        """The last rewind if it did not help: plain decoding said the same, and the same detector speaks again."""
        trip = self._trips[-1] if self._trips else None
        if trip is None or trip.blame is None or trip.blame.differs:
            return None
        if (trip.finding.detector, trip.finding.began) != (finding.detector, finding.began):
            return None
        if not finding.detector.startswith("drift."):  # nobody says that numbers which are wrong are the model's
            trip.blame.recur()
        return trip

    def _describe(
        self,
        trip: _Trip,
        decision: Decision,
        mode: DecodeMode,
        transcript: Transcript,
        lost: tuple[int, ...],
    ) -> Incident:
        request, generation, finding = self._request, self._generation, trip.finding
        rewind = decision if isinstance(decision, Rewind) else None
        after = decision.mode if isinstance(decision, Rewind | Start) else mode
        tool, totals = finding.evidence.get("tool"), transcript.totals
        return Incident(
            id=trip.id,
            request_id=request.request_id,
            session=request.session,
            api=request.api,
            model=self._backend.info.id,
            fingerprint=self._backend.info.fingerprint,
            detector=finding.detector,
            grade=finding.grade.name.lower(),
            reason=finding.reason,
            channel=finding.channel,
            position=finding.position,
            began=finding.began,
            action=_ACTIONS.get(type(decision), "none"),
            mode_before=str(mode),
            mode_after=str(after),
            rewound_to=rewind.to if rewind else None,
            tokens_rewound=sum(token >= 0 for token in lost),
            context=transcript.context,
            prompt_tokens=generation.prompt_tokens,
            cached_tokens=generation.cached_tokens,
            seed=generation.seed,
            temperature=request.sampling.temperature,
            prompt_sha256=_digest(request),
            rebuild=rewind.rebuild if rewind else "",
            tool=next((declared.name for declared in request.tools if declared.name == tool), ""),
            evidence=dict(finding.evidence),
            audits={"audited": totals.audits, "mismatches": totals.mismatches},
            drafts={"drafted": totals.drafted, "accepted": totals.accepted},
            steps=transcript.steps,
            capabilities=asdict(self._backend.capabilities),
            origin=self._origin,
            versions=versions(),
            changed=self._changed(mode, after) if rewind is not None else {},
        )

    def _changed(self, before: DecodeMode, after: DecodeMode) -> Mapping[str, Any]:
        changed = getattr(self._backend, "changed", None)
        return {} if changed is None else dict(changed(before, after))

    def _capture(
        self,
        finding: Finding,
        decision: Decision,
        mode: DecodeMode,
        transcript: Transcript,
        lost: tuple[int, ...],
    ) -> Capture:
        """What a sink needs to run the response again; nothing is copied but the response's own tokens."""
        ids = transcript.ids
        if finding.detector.startswith("stall."):  # about the step behind all that came, watched or not
            ids += transcript.coming
        kept = decision.to if isinstance(decision, Rewind) else len(ids)
        generation = self._generation
        return Capture(
            request=self._request,
            mode=mode,
            seed=generation.seed,
            prompt_ids=generation.prompt_ids,
            cached_tokens=generation.cached_tokens,
            kept_ids=ids[:kept],
            lost_ids=tuple(token for token in lost if token >= 0),
            modes=tuple((at, each) for at, each in transcript.modes if at < kept),
            response=transcript.text,
        )


def _sent_loop(finding: Finding, to: int, transcript: Transcript) -> LoopDigest | None:
    """The loop that a rewind cuts, if the client has got some of its copies: they come back with the next request."""
    period = finding.evidence.get("period", 0)
    if finding.detector != "loop.period" or finding.channel.startswith("tool:") or to <= finding.began:
        return None
    return LoopDigest.of("".join(token.text for token in transcript.tokens[finding.began : finding.began + period]))


def _compared(finding: Finding, start: int, lost: tuple[int, ...]) -> tuple[int, ...]:
    if finding.detector != "drift.nonfinite":
        return lost
    bad = finding.position - start
    return (*lost[:bad], NOT_FINITE, *lost[bad + 1 :])


def _proven(finding: Finding) -> Culprit | None:
    """Whom a finding convicts by a comparison of its own."""
    if finding.detector == "drift.prefix":
        return Culprit.PREFIX
    return Culprit.KV if finding.evidence.get("check") in PROOFS else None


def _without_comparison(finding: Finding, mode: DecodeMode, acted: bool = True, audited: bool = True) -> BlameVerdict:
    """Who is to blame when nothing was decoded again: an audit convicts, and plain decoding is the model. audited: the
    engine's steps are; else plain decoding is merely what is least likely to be wrong."""
    if finding.detector == "drift.audit":
        return BlameVerdict(Culprit.SPECULATION, "certain", finding.position, 0, finding.began, (), ())
    if finding.detector == "drift.prefix":
        return BlameVerdict(Culprit.PREFIX, "certain", finding.position, 0, finding.began, (), ())
    if acted and finding.detector == "loop.history":  # plain decoding served the last copies, here or before a restart
        return BlameVerdict(Culprit.MODEL, "likely", None, 0, finding.began, (), ())
    if acted and mode == PLAIN and not finding.detector.startswith(("drift.", "stall.", "tool.held", "lane.")):
        return BlameVerdict(Culprit.MODEL, "certain" if audited else "likely", None, 0, finding.began, (), ())
    return BlameVerdict(Culprit.UNKNOWN, "none", None, 0, finding.began, (), ())


def _digest(request: ChatRequest) -> str:
    """SHA-256 of everything the model was given, as canonical JSON."""
    given = {"messages": [asdict(m) for m in request.messages], "tools": [asdict(t) for t in request.tools]}
    text = json.dumps(given, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
