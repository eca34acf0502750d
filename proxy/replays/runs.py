"""Runs a captured response again, as `policies.axes` asks, and watches each run as the session watched the response.

Must not: decide who is to blame, know an engine, or go on when clients come first.
Invariant: what is kept of a run is what its tokens and steps show; a run that was cut short is no evidence.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from detectors.audit import audit_finding, nonfinite_finding
from detectors.charset import scripts_of
from detectors.drift.monitor import DriftMonitor
from detectors.finding import Finding, Grade
from detectors.settings import DEFAULT, DetectorSettings
from detectors.tool_schema import ToolSchemas
from detectors.watch import Watch
from policies.axes import BASELINE, AxesVerdict, Axis, Case, Seen, Setup, conclude, judge, rows
from proxy.backends.base import Delta, Replayer, Rerun
from proxy.backends.errors import BackendError, Preempted
from proxy.backends.token_constraint import demand_of
from proxy.replays.capture import Capture

log = structlog.get_logger()

WINDOW = 64
"""Tokens behind the one where it tripped in which the same trouble is waited for."""
CHECK_EVERY = 8
"""Tokens between two recomputations from a clean cache, where a run is checked."""
_SHARE = 4
"""A run may have this part of the budget; of a longer response the first tokens are forced."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all runs together: tokens decoded one by one or in steps of drafts, and seconds of work."""

    tokens: int = 1024
    seconds: float = 30.0


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Tripped:
    """What tripped, and by which rules it was watched. position: index of the token at which the evidence was complete.

    exact: the backend passed its bitwise self-test; thinking: a response begins inside `<think>`.
    """

    detector: str
    grade: Grade
    position: int
    exact: bool
    thinking: bool = False
    call_chars: int = 1 << 20
    settings: DetectorSettings = DEFAULT


@dataclass(frozen=True, slots=True)
class Judged:
    """verdict.culprit None = the trouble did not come again. rows: the evidence; texts: of the tokens in all runs."""

    verdict: AxesVerdict
    rows: tuple[dict[str, Any], ...]
    milliseconds: float
    texts: Mapping[int, str] = field(default_factory=dict)


class OutOfBudget(Exception):
    """The message says of which."""


async def give_up() -> bool:
    """Patience of those who have none."""
    return False


async def investigate(
    replayer: Replayer,
    tripped: Tripped,
    capture: Capture,
    limits: Limits = LIMITS,
    axes: Collection[Axis] = (),
    patience: Callable[[], Awaitable[bool]] = give_up,
    clock: Callable[[], float] = time.monotonic,
) -> Judged:
    """Runs until the verdict is certain or the budget is used up. axes: run all of these, however certain it is.

    patience: waits until clients are served, False = give up. Raises BackendError only if no run at all can be made.
    """
    case = case_of(tripped, capture)
    runs: dict[Setup, Seen] = {}
    purse, texts = _Purse(limits, clock), dict[int, str]()
    while True:
        wanted = judge(case, runs, axes)
        if isinstance(wanted, AxesVerdict):
            return Judged(wanted, rows(case, runs), purse.milliseconds, texts)
        try:
            runs[wanted] = await _run(replayer, tripped, capture, case, wanted, purse, texts)
            continue
        except Preempted:
            if await patience():
                continue
            why = "clients came first"
        except OutOfBudget as spent:
            why = str(spent)
        except BackendError as error:
            if not runs:
                raise
            why = f"{wanted.mode} cannot be run: {error}"
        return Judged(conclude(case, runs, why), rows(case, runs), purse.milliseconds, texts)


def case_of(tripped: Tripped, capture: Capture) -> Case:
    """What the rules are asked with. Raises BadPrompt for demands that cannot be compiled."""
    setup = Setup(capture.mode, capture.cached_tokens > 0, demand_of(capture.request) is not None)
    said = (*capture.kept_ids, *capture.lost_ids)
    return Case(tripped.detector, tripped.position, setup, said, tripped.exact)


class _Purse:
    """What may still be spent."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits, self._clock = limits, clock
        self._tokens, self._seconds = limits.tokens, 0.0

    @property
    def milliseconds(self) -> float:
        return self._seconds * 1e3

    def now(self) -> float:
        return self._clock()

    def afford(self, tokens: int) -> None:
        """Raises OutOfBudget if so many tokens more are too many."""
        if tokens > self._tokens:
            raise OutOfBudget(f"{self._tokens} of {self.limits.tokens} tokens are left, the next run may need {tokens}")

    def spend(self, tokens: int, since: float) -> float:
        """Takes tokens, and the time since then; returns the time now. Raises OutOfBudget when it is used up."""
        now = self._clock()
        self._tokens -= tokens
        self._seconds += now - since
        if self._seconds > self.limits.seconds:
            raise OutOfBudget(f"{self.limits.seconds:g} s are used up")
        return now


async def _run(
    replayer: Replayer,
    tripped: Tripped,
    capture: Capture,
    case: Case,
    setup: Setup,
    purse: _Purse,
    texts: dict[int, str],
) -> Seen:
    """One run, up to where the trouble comes again or should have. texts: takes those of its tokens.

    Raises OutOfBudget, BackendError.
    """
    horizon = case.position + 1 + WINDOW
    forced = _forced(capture, horizon, purse.limits.tokens)
    purse.afford(horizon - (len(forced) if setup.mode.speculates else 0))
    watched = _Watched(tripped, capture, setup)
    rerun = Rerun(
        request=capture.request,
        prompt_ids=capture.prompt_ids,
        seed=capture.seed,
        mode=setup.mode,
        reuse=capture.cached_tokens if setup.cached else 0,
        filtered=setup.filtered,
        forced=forced,
        check_every=_checks(setup, case),
    )
    started = at = purse.now()
    try:
        replayed = await replayer.replay(rerun)
        try:
            at = purse.spend(0 if setup.mode.speculates else len(forced), at)
            while not watched.over and len(watched.said) < horizon:
                delta = await replayed.next()
                if delta is None:
                    break
                watched.feed(delta)
                texts.update((token.id, token.text) for token in delta.tokens if token.text)
                at = purse.spend(0 if delta.position < len(forced) else len(delta.tokens), at)
        finally:
            await replayed.close()
    except Preempted:
        purse.spend(0, at)
        raise
    seen = watched.seen(replayed.prefix, replayed.reused, len(forced), (at - started) * 1e3)
    log.debug("replay.run", mode=str(setup.mode), cached=seen.cached, tokens=len(seen.said), recurs=seen.recurs)
    return seen


def _forced(capture: Capture, horizon: int, tokens: int) -> tuple[int, ...]:
    """What need not be decoded again: what another mode had decoded, and what the budget does not reach."""
    at, mode = capture.modes[-1] if capture.modes else (0, capture.mode)
    stretch = at if mode == capture.mode else len(capture.kept_ids)
    return capture.kept_ids[: max(stretch, horizon - tokens // _SHARE, 0)]


def _checks(setup: Setup, case: Case) -> int:
    """Tokens between two checks. The baseline has some, because it is trusted; codes, because they may be wrong without
    changing a token; and a mismatch over codes asks which of two kernels is right, step by step."""
    if case.detector == "drift.audit" and setup.mode.codec != "full":
        return 1
    checked = setup == BASELINE or setup.mode.codec != "full" or case.detector == "drift.shadow"
    return CHECK_EVERY if checked else 0


class _Watched:
    """A run under the detectors of the session."""

    def __init__(self, tripped: Tripped, capture: Capture, setup: Setup) -> None:
        request = capture.request
        schemas = ToolSchemas.compile([(tool.name, tool.parameters) for tool in request.tools])
        scripts = scripts_of(message.text for message in request.messages)
        self._watch = Watch(schemas, tripped.call_chars, tripped.thinking, scripts, tripped.settings)
        codec = setup.mode.codec
        self._drift = DriftMonitor(codec, exact=tripped.exact, settings=tripped.settings.drift)
        self._tripped, self._full = tripped, codec == "full"
        self._recurs = self._mismatch = self._foreign = self._dirty = self._ended = False
        self._replaced = 0
        self._kls: list[tuple[int, float]] = []
        self.said: list[int] = []

    @property
    def over(self) -> bool:
        """Nothing that comes could tell more."""
        if self._foreign:
            return True
        if self._mismatch:
            return self._full or self._ended  # over codes it has to be found out which side is wrong
        return self._recurs or self._ended

    def feed(self, delta: Delta) -> None:
        """Takes one step."""
        step = delta.step
        if step.audit is not None:
            audit = step.audit
            wrong = audit.mismatch is not None
            self._foreign |= wrong and audit.compared == "prefix"
            self._mismatch |= wrong and audit.compared != "prefix"
            self._note(audit_finding(delta.position, audit.rows, audit.mismatch, audit.max_abs_diff, audit.compared))
        if step.shadow is not None and step.shadow.kl != float("inf"):  # numbers that are none have their own detector
            self._kls.append((step.shadow.position, step.shadow.kl))
            self._dirty |= self._full and not step.shadow.identical
        self._note(self._drift.feed(delta.position, delta.tokens, step))
        self._replaced += step.filtered
        for position, token in enumerate(delta.tokens, delta.position):
            self._note(nonfinite_finding(position, token.finite))
            self.said.append(token.id)
            self._note(self._watch.feed(position, token.id, token.text)[1])
        if delta.end is not None:
            self._ended = True
            self._note(self._watch.finish(delta.end, delta.tail)[1])

    def seen(self, prefix: Any, reused: int, forced: int, milliseconds: float) -> Seen:
        return Seen(
            said=tuple(self.said),
            ended=self._ended,
            recurs=self._recurs,
            mismatch=self._mismatch,
            foreign=self._foreign,
            dirty=self._dirty,
            replaced=self._replaced,
            kls=tuple(self._kls),
            cached=reused,
            prefix=prefix,
            forced=forced,
            milliseconds=milliseconds,
        )

    def _note(self, finding: Finding | None) -> None:
        if finding is None or finding.grade < min(self._tripped.grade, Grade.FALLBACK):
            return
        self._recurs |= kin(finding.detector) == kin(self._tripped.detector)


def kin(detector: str) -> str:
    """Detectors that see the same trouble from different sides: which of them speaks first is chance."""
    family = detector.partition(".")[0]
    if family in ("loop", "struct"):
        return "loop"
    return detector if family == "drift" else family
