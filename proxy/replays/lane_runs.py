"""Asks lanes again for a captured response, as `policies.lane_axes` wants, and watches each answer as that one was.

Servers take messages, not tokens, and tell no state: so a response is asked for from its beginning, by its messages,
and what counts is whether the same trouble comes again, not which token is another one.

Must not: decide who is to blame, or leave a stream open. Invariant: an answer that failed or was cut short by the
budget is no evidence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from detectors.charset import scripts_of
from detectors.finding import Finding, Grade
from detectors.placed_watch import PlacedWatch
from detectors.tool_schema import ToolSchemas
from policies.axes import AxesVerdict
from policies.lane_axes import LaneCase, LaneSeen, LaneSetup, judge_lanes, lane_rows
from policies.modes import DecodeMode
from proxy.backends.base import Capabilities, Delta, Generation
from proxy.backends.errors import BackendError
from proxy.conversation import ChatRequest, Demands
from proxy.replays.capture import Capture
from proxy.replays.runs import Judged, Limits, OutOfBudget, Tripped, kin

LONGER = 256
"""Tokens that an answer may be longer, beside twice as long, before the trouble is taken not to come: nobody says the
same in the same words twice."""
NOT_AGAIN = {
    "stall.": "a step that did not come cannot be run again",
    "lane.failed": "it is about a server that failed, not about what it said; ask again when it answers",
    "loop.history": "it is about the client's messages; nothing was asked of a lane yet",
    "drift.": "it is about figures of many responses, which one answer does not show",
}
"""Findings, and why no answer could show them."""


@dataclass(frozen=True, slots=True)
class LaneTraits:
    """name: of the lane; plain: of the plain one, "" = none; salted: it can be made to read a prefix anew; apart: what
    tells the plain lane from it."""

    name: str
    plain: str
    salted: bool
    apart: tuple[str, ...]


@runtime_checkable
class Reasker(Protocol):
    """A backend of lanes."""

    @property
    def capabilities(self) -> Capabilities: ...

    def traits_of(self, mode: DecodeMode) -> LaneTraits:
        """Of the lane that runs in `mode`."""

    async def ask_again(self, request: ChatRequest, lane: str, seed: int, *, fresh: bool) -> Generation:
        """From the beginning. Raises BackendError."""


def why_not(detector: str) -> str:
    """Why an incident of this detector cannot be asked again, "" = it can."""
    return next((why for name, why in NOT_AGAIN.items() if detector.startswith(name)), "")


async def investigate_lanes(
    backend: Reasker,
    tripped: Tripped,
    capture: Capture,
    limits: Limits,
    clock: Callable[[], float] = time.monotonic,
) -> Judged:
    """Asks until there is a verdict or the budget is used up. Raises BackendError if not even the first question is
    answered."""
    traits = backend.traits_of(capture.mode)
    free = undemanding(capture.request)
    setup = LaneSetup(traits.name, False, free != capture.request)
    case = LaneCase(setup, traits.plain, traits.salted, traits.apart)
    asked: list[tuple[LaneSetup, LaneSeen]] = []
    left, began = limits.tokens, clock()
    while True:
        wanted = judge_lanes(case, asked)
        if isinstance(wanted, AxesVerdict):
            break
        request = capture.request if wanted.filtered else free
        try:
            if clock() - began > limits.seconds:
                raise OutOfBudget(f"{limits.seconds:g} s are used up")
            seen = await _ask(backend, tripped, request, wanted, capture, left, clock)
        except OutOfBudget as spent:
            wanted = AxesVerdict(None, "none", f"not finished: {spent}", finished=False)
            break
        except BackendError as error:
            if not asked:
                raise
            wanted = AxesVerdict(None, "none", f"not finished: {error}", finished=False)
            break
        left -= seen.tokens
        asked.append((wanted, seen))
    return Judged(wanted, lane_rows(case, asked), (clock() - began) * 1e3)


def limits_of(backend: Reasker, capture: Capture, salt: str, keyed: bool) -> tuple[str, ...]:
    """What cannot be run again of it, and why. salt: as configured; keyed: clients have keys."""
    traits = backend.traits_of(capture.mode)
    told = ["token for token: servers take messages, so the trouble is looked for, not a difference"]
    if not traits.salted:
        told.append(f"another prefix: the {traits.name} lane knows no cache salt")
    elif salt and keyed:
        told.append("the prefix of then: its salt was made of the client's key, which no record holds")
    if not traits.plain:
        told.append("another lane: there is none")
    if capture.request.sampling.temperature > 0:
        told.append("chance: it was sampled, and servers need not keep a seed")
    return tuple(told)


def undemanding(request: ChatRequest) -> ChatRequest:
    """The same without what a server's grammar would enforce."""
    tools = tuple(replace(tool, strict=False) for tool in request.tools)
    return replace(request, tools=tools, demands=Demands())


async def _ask(
    backend: Reasker,
    tripped: Tripped,
    request: ChatRequest,
    setup: LaneSetup,
    capture: Capture,
    left: int,
    clock: Callable[[], float],
) -> LaneSeen:
    """Up to where the trouble comes again or should have. left: tokens that may still be spent."""
    horizon, started = 2 * (tripped.position + 1) + LONGER, clock()
    if horizon > left:
        raise OutOfBudget(f"{left} tokens are left, the next question may need {horizon}")
    watched, tokens = _Watched(backend, tripped, request), 0
    generation = await backend.ask_again(request, setup.lane, capture.seed, fresh=setup.fresh)
    try:
        while (delta := await generation.next()) is not None:
            watched.feed(delta)
            tokens += len(delta.tokens)
            if watched.found or delta.end is not None or tokens >= horizon:
                break
    finally:
        await generation.close()
    return LaneSeen(watched.found, watched.same, tokens, (clock() - started) * 1e3)


class _Watched:
    """An answer under the detectors of the session."""

    def __init__(self, backend: Reasker, tripped: Tripped, request: ChatRequest) -> None:
        schemas = ToolSchemas.compile([(tool.name, tool.parameters) for tool in request.tools])
        scripts = scripts_of(message.text for message in request.messages)
        by_bytes = not backend.capabilities.token_ids
        self._watch = PlacedWatch(schemas, tripped.call_chars, scripts, tripped.settings, by_bytes=by_bytes)
        self._tripped = tripped
        self.found, self.same = "", False

    def feed(self, delta: Delta) -> None:
        for position, token in enumerate(delta.tokens, delta.position):
            if token.parts is None:
                self._note(self._watch.feed(position, token.id, token.text)[1])
            else:
                self._note(self._watch.feed_parts(position, token.id, token.parts)[1])
        self._note(delta.found)
        if delta.end is not None:
            self._note(self._watch.finish(delta.end, delta.tail)[1])

    def _note(self, finding: Finding | None) -> None:
        if finding is None or self.same or finding.grade < min(self._tripped.grade, Grade.FALLBACK):
            return
        if finding.detector == "lane.failed":
            raise BackendError(str(finding.evidence.get("told", finding.reason)))
        self.found = finding.detector
        self.same = _kin(finding.detector) == _kin(self._tripped.detector)


def _kin(detector: str) -> str:
    """As elsewhere, but what a lane's stream shows is told apart."""
    return detector if detector.startswith("lane.") else kin(detector)
