"""Everything that watches over lanes beside the responses: known-bad pairs, acceptance from metrics, whether a server
is poisoned, the lossless meter; and what canaries have to know of lanes.

Must not: stand in a response's way, or decide more than to distrust a lane (the keeper's breakers do the rest).
Invariant: what it runs in the background ends with `close`, and nothing of it raises into anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import structlog

from policies.modes import DecodeMode
from proxy.conversation import ChatRequest
from proxy.incidents import Closure, Incident, Judgement
from proxy.lanes.asking import Target, Unanswered
from proxy.lanes.distrust import distrust, quarantine
from proxy.lanes.drift_figure import DriftFigure
from proxy.lanes.identity import LaneSilent
from proxy.lanes.known_bad import KnownBad, matches
from proxy.lanes.meter import LosslessMeter, MeterSettings
from proxy.lanes.metrics_signal import EVERY_S, Acceptance, MetricsSignal, TimedAcceptance, beside_loop
from proxy.lanes.metrics_signal import Verdict as AcceptanceVerdict
from proxy.lanes.poison import PoisonCheck
from proxy.lanes.probe import Probed, probe
from proxy.lanes.restarts import EVERY_S as LOOK_S
from proxy.lanes.restarts import Restarts
from proxy.lanes.teacher import SCORERS
from proxy.replays.capture import Capture
from proxy.trust.keeper import TrustKeeper

log = structlog.get_logger()
SUSPICIOUS = ("loop.", "struct.", "stall.", "drift.collapse", "drift.nonfinite", "lane.swallowed")
"""What a poisoned server's responses trip; `loop.history` is about the client's messages."""
ASK_AGAIN_S = 30.0


PLAIN_LANE = "plain"
"""Its name; its mode may be another one than `plain`, where its cache is compressed."""


class WatchedLane(Protocol):
    """mode: in which the guard speaks of it."""

    @property
    def name(self) -> str: ...
    @property
    def mode(self) -> DecodeMode: ...
    @property
    def probed(self) -> Probed: ...


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """metrics_s: between two scrapes; 0 = none. look_s: between two looks whether a server was begun anew."""

    metrics_s: float = EVERY_S
    look_s: float = LOOK_S
    meter: MeterSettings = field(default_factory=MeterSettings)


@runtime_checkable
class WatchedBackend(Protocol):
    """A backend of lanes. servers: known once it has started. watch: told of every turn that a lane has said."""

    watch: LaneWatch | None

    @property
    def servers(self) -> Sequence[WatchedLane]: ...


def untold(probed: Probed) -> str:
    """Why a lane's turns cannot be held against another one, "" = they can be."""
    can = probed.capabilities
    lacking = [name for name, has in (("responses", can.token_ids), ("prompts", can.prompt_ids)) if not has]
    return f"it does not tell the token ids of its {' and '.join(lacking)}" if lacking else ""


def no_drift_figure(fast: Probed, plain: Probed | None) -> str:
    """Why there will be none of the fast lane, "" = there will."""
    if plain is None:
        return "there is no plain lane beside it"
    scorer = plain.capabilities
    if not scorer.prompt_logprobs or scorer.kind not in SCORERS:
        return f"the plain lane scores no given tokens ({plain.reasons.get('prompt_logprobs', '')})"
    return untold(fast)


class LaneWatch:
    """An incident sink, and what canaries ask (`canaries.ModeChecks`). idle: set while nobody is served; spare:
    held by whoever uses the engines then. drafts_dead: told of a lane whose drafts are worth nothing. renew: told what
    was found of a server that was begun anew, answers all lanes; None = servers are not looked after. tripped: told of
    sessions in whose responses something tripped.
    """

    def __init__(
        self,
        lanes: Sequence[WatchedLane],
        keeper: TrustKeeper,
        idle: asyncio.Event,
        spare: asyncio.Lock,
        settings: WatchSettings | None = None,
        drafts_dead: Callable[[str, Acceptance], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        renew: Callable[[str, Probed], Sequence[WatchedLane]] | None = None,
        prober: Callable[[Target], Awaitable[Probed]] = probe,
        tripped: Callable[[str], None] | None = None,
    ) -> None:
        self._tripped = tripped
        self._renew, self._prober, self._window = renew, prober, 0
        self.restarts: dict[str, Restarts] = {}
        self.lanes, self._keeper, self._settings = tuple(lanes), keeper, settings or WatchSettings()
        self._by_mode = {str(lane.mode): lane for lane in lanes}
        self._drafts_dead, self._clock = drafts_dead, clock
        self.poison = PoisonCheck({lane.name: (lane.probed.target, lane.probed.model) for lane in lanes})
        self.signals: dict[str, MetricsSignal] = {}
        self.meter, self.meter_off = self._meter(idle, spare)
        self._timed: dict[str, TimedAcceptance] = {}
        self._asked: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, window: int) -> None:
        """The keeper knows the model now. window: of the context, in tokens."""
        self._window = window
        for lane in self.lanes:
            capabilities = lane.probed.capabilities
            if lane.probed.away and not self._is_last(lane):
                self._keeper.distrust(str(lane.mode), 1, "away", "unknown", cool_down=True)
            if self._renew is not None:
                restarts = Restarts(
                    lane.probed.target,
                    partial(self._ask_anew, lane.name),
                    self._settings.look_s,
                    bool(lane.probed.away),
                )
                self.restarts[lane.name] = restarts
                self._run(restarts.run, f"restarts-of-{lane.name}")
            distrust(self._keeper, lane.mode, lane.name, capabilities, window, plain=self._is_last(lane))
            if lane.name == PLAIN_LANE and capabilities.speculates:
                log.warning("lane.not_plain", lane=lane.name, speculation=capabilities.speculation, remedy=NOT_PLAIN)
            if self._settings.metrics_s and "metrics" in (capabilities.draft_statistics, capabilities.cache_hits):
                self.signals[lane.name] = signal = MetricsSignal(
                    lane.probed.target, self._settings.metrics_s, self._changed(lane.name)
                )
                self._run(signal.run, f"metrics-of-{lane.name}")
        if self.meter is not None:
            self._run(self.meter.run, "lossless-meter")

    async def make_way(self) -> None:
        """A client came."""
        if self.meter is not None:
            await self.meter.make_way()

    def chooses(self, request: ChatRequest, mode: DecodeMode) -> bool:
        """Whether a turn that begins is for the meter; what the plain lane says is not held against itself."""
        lane = self._by_mode.get(str(mode))
        told = self.meter is not None and lane is not None and lane.name != PLAIN_LANE
        return told and self.meter is not None and self.meter.chooses(request)

    def finished(
        self, request: ChatRequest, mode: DecodeMode, prompt_ids: Sequence[int], token_ids: Sequence[int]
    ) -> None:
        """A turn that was chosen has ended, all of it said by the lane of `mode`."""
        lane = self._by_mode.get(str(mode))
        if self.meter is not None and lane is not None:
            self.meter.finished(request, lane.name, prompt_ids, token_ids)

    def drafted(self, mode: DecodeMode, drafted: int, accepted: int) -> None:
        """A response of a lane has ended and told of its drafts."""
        if (lane := self._by_mode.get(str(mode))) is not None:
            self._timed.setdefault(lane.name, TimedAcceptance()).take(self._clock(), drafted, accepted)

    def acceptance(self, name: str) -> Acceptance | None:
        """Of a lane, by its metrics, else by what its responses told; None = not known."""
        if (signal := self.signals.get(name)) is not None and (found := signal.acceptance) is not None:
            return found
        timed = self._timed.get(name)
        return None if timed is None else timed.read(self._clock())

    def beside_loop(self, mode: DecodeMode) -> Mapping[str, Any]:
        """Evidence for a loop that was found in what a lane says."""
        lane = self._by_mode.get(str(mode))
        return {} if lane is None else beside_loop(self.acceptance(lane.name))

    @property
    def sound(self) -> DecodeMode:
        """Of a pool of one lane its own: there is nothing else."""
        return next((lane.mode for lane in self.lanes if lane.name == PLAIN_LANE), self.lanes[0].mode)

    def tells_hits(self, mode: DecodeMode) -> bool:
        """`cached_tokens` of a response are the server's own word only where its usage or timings have it."""
        lane = self._by_mode.get(str(mode))
        return lane is not None and lane.probed.capabilities.cache_hits in ("usage", "timings")

    async def unsound(self, mode: DecodeMode) -> str:
        lane = self._by_mode.get(str(mode))
        if lane is None:
            return ""
        if not self.answers(lane.name):
            return "its server does not answer"
        verdict = await self.poison.ask(lane.name)
        return verdict.why if verdict.state == "poisoned" else ""

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        """After a loop or a stall: is it the server? Asked in the background, at most once in ASK_AGAIN_S."""
        if self._tripped is not None:
            self._tripped(incident.session)
        lane = self._by_mode.get(incident.mode_before)
        if lane is None or incident.detector == "loop.history" or not incident.detector.startswith(SUSPICIOUS):
            return
        now = self._clock()
        if now - self._asked.get(lane.name, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return
        self._asked[lane.name] = now
        self._run(partial(self._look, lane), f"poison-check-{lane.name}")

    def closed(self, closure: Closure) -> None:
        """Nothing to learn from."""

    def judged(self, judgement: Judgement) -> None:
        """Nothing to learn from."""

    def answers(self, name: str) -> bool:
        """Whether a lane's server did when it was last looked at; yes, where nobody looks."""
        return name not in self.restarts or not self.restarts[name].away

    @property
    def silence(self) -> str:
        """That no lane answers; "" as long as one does."""
        if any(self.answers(lane.name) for lane in self.lanes) or not self.lanes:
            return ""
        return f"no lane answers ({', '.join(lane.name for lane in self.lanes)}); start a server of them"

    def plain(self) -> dict[str, Any]:
        """For `/ready`."""
        shown: dict[str, Any] = {}
        for lane in self.lanes:
            signal, verdict = self.signals.get(lane.name), self.poison.last.get(lane.name)
            acceptance = self.acceptance(lane.name)
            shown[lane.name] = lane.probed.plain() | {
                "mode": str(lane.mode),
                "answers": self.answers(lane.name),
                "known_bad": [row.plain() for row in self.known_bad(lane)],
                "acceptance": None if acceptance is None else acceptance.plain(),
                "metrics_problem": None if signal is None else signal.problem or None,
                "poisoned": None if verdict is None else {"state": verdict.state, "why": verdict.why or None},
            }
        meter: dict[str, Any] = {"off": self.meter_off} if self.meter is None else self.meter.reads()
        meter["unknown"] = self.drift_unknown
        return {"lanes": shown, "drift": meter}

    @property
    def drift_unknown(self) -> dict[str, str]:
        """Lanes of which there is no drift figure, and why not; never a reason to take them for sound."""
        found = {}
        for lane in self.lanes:
            figure = self.figures.get(lane.name)
            if lane.name == PLAIN_LANE or (figure is not None and any(each.tokens for each in figure.tallies.values())):
                continue
            found[lane.name] = self.meter_off or untold(lane.probed) or "no turn of it has been scored yet"
            if not self.meter_off and self.meter is not None and self.meter.problem:
                found[lane.name] = f"the plain lane could not score it: {self.meter.problem}"
        return found

    @property
    def figures(self) -> Mapping[str, DriftFigure]:
        """Of each lane, for the metrics."""
        return {} if self.meter is None else self.meter.figures

    @staticmethod
    def known_bad(lane: WatchedLane) -> tuple[KnownBad, ...]:
        return matches(lane.probed.capabilities)

    async def close(self) -> None:
        """Ends all that runs."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_last(self, lane: WatchedLane) -> bool:
        """Is it what others fall back to, or all there is?"""
        return lane.name == PLAIN_LANE or len(self.lanes) == 1

    async def _ask_anew(self, name: str, why: str) -> None:
        """A lane's server is not the one from before. It serves until something speaks against it: what its settings
        are known for, or its canaries. Raises Unanswered."""
        target = next(lane.probed.target for lane in self.lanes if lane.name == name)
        try:
            probed = await self._prober(target)
        except LaneSilent as silent:
            raise Unanswered(str(silent)) from None
        assert self._renew is not None
        self.lanes = tuple(self._renew(name, probed))
        self._by_mode = {str(lane.mode): lane for lane in self.lanes}
        self.poison.renew(name, target, probed.model)
        lane = next(lane for lane in self.lanes if lane.name == name)
        log.warning("lane.begun_anew", lane=name, why=why, version=probed.capabilities.version)
        distrust(self._keeper, lane.mode, name, probed.capabilities, self._window, plain=self._is_last(lane))

    async def _look(self, lane: WatchedLane) -> None:
        verdict = await self.poison.ask(lane.name)
        if verdict.state == "poisoned":
            quarantine(self._keeper, lane.mode, lane.name, verdict.why, plain=self._is_last(lane))

    def _changed(self, name: str) -> Callable[[AcceptanceVerdict, Acceptance], None]:
        def changed(verdict: AcceptanceVerdict, found: Acceptance) -> None:
            if verdict == "dead":
                log.warning("lane.drafts_dead", lane=name, **found.plain())
                if self._drafts_dead is not None:
                    self._drafts_dead(name, found)
            else:
                log.info("lane.acceptance", lane=name, **found.plain())

        return changed

    def _meter(self, idle: asyncio.Event, spare: asyncio.Lock) -> tuple[LosslessMeter | None, str]:
        settings = self._settings.meter
        plain = next((lane for lane in self.lanes if lane.name == PLAIN_LANE), None)
        others = [lane for lane in self.lanes if lane is not plain]
        if not settings.share:
            return None, "lanes.meter_share is 0"
        if plain is None or not others:
            return None, "there is no plain lane beside another one"
        scorer = plain.probed.capabilities
        if not scorer.prompt_logprobs or scorer.kind not in SCORERS:
            why = plain.probed.reasons.get("prompt_logprobs", "")
            return None, f"the plain lane scores no given tokens ({why})"
        told = [each for each in others if each.probed.capabilities.token_ids and each.probed.capabilities.prompt_ids]
        if not told:
            return None, "no other lane tells the token ids of prompts and responses"
        return LosslessMeter(plain.probed.target, scorer.kind, plain.probed.model, idle, settings, spare), ""

    def _run(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        async def guarded() -> None:
            try:
                await work()
            except Exception:
                log.exception("lane.watch_failed", task=name)

        task = asyncio.create_task(guarded(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


NOT_PLAIN = "serve the plain lane without speculation, or a fall back may fall into the same fault"
