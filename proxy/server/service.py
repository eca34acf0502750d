"""What all handlers share: configuration, backend, policy, incident store, and whether the model is ready.

Must not: handle a request. Invariant: `ready` is True only after the backend has started; `failure` says why not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

from detectors.drift.memory import DriftMemory
from policies.ladder import landing
from policies.modes import DecodeMode
from policies.overrides import HEADER, Overrides, PolicyRefused, Traits
from policies.policy import Policy
from proxy.backends.base import Backend
from proxy.backends.errors import BackendError
from proxy.configuration.config import Config, config_sha256
from proxy.configuration.policy_source import policy_sha256
from proxy.conversation import ChatRequest
from proxy.errors import RequestError
from proxy.guard.loop_ledger import LoopLedger
from proxy.guard.session import GuardedSession
from proxy.guard.session_budget import RewindLedger, SessionBudget
from proxy.incidents import IncidentStore, Origin
from proxy.lanes.watch import LaneWatch
from proxy.metrics import Metrics, Present
from proxy.replays.automatic import AutomaticReplay
from proxy.server.asked_mode import asked_mode
from proxy.server.ending import Ending
from proxy.server.streaming import Observer
from proxy.sinks import Sinks
from proxy.trust.canaries import Canaries
from proxy.trust.keeper import TrustKeeper

if TYPE_CHECKING:
    from proxy.telemetry import Telemetry

log = structlog.get_logger()
MEASURE_S = 1.0
"""How long a scrape waits for the engine's own numbers."""


@dataclass(slots=True)
class Service:
    """One running server. settled: set when loading has ended, either way. mode: decode mode of the server.

    shadow: what clean recomputations have shown, of all responses. sinks: everybody who hears of incidents, the store
    first; None = the store alone. keeper: of breakers and trust, None = every mode is used everywhere. replays: of
    incidents, off the requests' path. lane_watch: where the backend is other people's servers. overrides: of the
    policy, for some requests; rewinds: of each session. loops: that were cut in earlier responses. in_flight, served:
    responses, now and so far.
    """

    config: Config
    backend: Backend
    incidents: IncidentStore
    policy: Policy
    mode: DecodeMode
    ready: bool = False
    failure: str = ""
    draining: bool = False
    shadow: DriftMemory = field(init=False)
    in_flight: int = 0
    served: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    overrides: Overrides = field(default_factory=Overrides)
    rewinds: RewindLedger = field(default_factory=RewindLedger)
    sinks: Sinks | None = None
    keeper: TrustKeeper | None = None
    canaries: Canaries | None = None
    lane_watch: LaneWatch | None = None
    metrics: Metrics | None = None
    loops: LoopLedger = field(default_factory=LoopLedger)
    replays: AutomaticReplay | None = None
    memory: dict[str, int] = field(default_factory=dict)
    telemetry: Telemetry | None = None
    ending: Ending = field(default_factory=Ending)
    origin: Origin = field(init=False)

    def __post_init__(self) -> None:
        self.idle.set()
        self.shadow = DriftMemory(self.config.detectors.drift)
        self.adopt(self.policy, self.overrides)

    def adopt(self, policy: Policy, overrides: Overrides) -> None:
        """From the next response on; those that run keep the policy that they began with."""
        self.policy, self.overrides = policy, overrides
        name = Path(self.config.guard.policy).name or "shipped"
        self.origin = Origin(config_sha256(self.config), name, policy_sha256(policy, overrides))
        if self.replays is not None:
            self.replays.adopt(policy.hold_call_chars)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts a response as in flight; `idle` is set while there is none."""
        self.in_flight += 1
        self.served += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()

    def observers(self, request: ChatRequest, headers: Mapping[str, str]) -> list[Observer]:
        """Who counts and traces a request."""
        found: list[Observer] = [] if self.metrics is None else [self.metrics.meter(request)]
        return found if self.telemetry is None else [*found, self.telemetry.begin(request, headers)]

    def not_ready(self) -> str:
        """Why requests cannot be served now; empty if they can."""
        if self.failure:
            return self.failure
        if self.draining:
            return "the server is shutting down"
        if not self.ready:
            return "the model is still loading"
        return "" if self.backend.trouble is None else self.backend.trouble.message

    def unready(self) -> str:
        """Why requests had better go to another server; empty if they need not. One that comes all the same is tried:
        lanes that were away when they were looked at may be back."""
        return self.not_ready() or ("" if self.lane_watch is None else self.lane_watch.silence)

    def known_models(self) -> list[str]:
        """The model's own name first, then its aliases."""
        return [self.backend.info.id, *self.config.model.aliases]

    async def begin(
        self, request: ChatRequest, owner: str = "", headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[GuardedSession, str]:
        """A guarded session in the mode that is trusted at the prompt's length, and why it is not the wanted one.

        A canary that runs makes way. Raises what `session` does, and BackendError for a prompt that cannot be rendered.
        """
        session = self.session(request, owner, headers)
        if self.canaries is not None:
            await self.canaries.make_way()
        if self.lane_watch is not None:
            await self.lane_watch.make_way()
        if self.keeper is None or session.policy.action == "observe":
            return session, ""

        async def count() -> int:
            return await self.backend.count_tokens(session.request.messages, request.tools)

        start = await self.keeper.start(session.mode, count, getattr(self.backend, "fits", None))
        if start.why:
            log.info("mode.safer", request_id=request.request_id, mode=str(start.mode), reason=start.why)
            if self.metrics is not None:
                self.metrics.safer_start(session.mode, start.mode)
        mode = landing(start.mode, self.backend.capabilities.ladder)
        if mode != session.mode or start.limit is not None:
            session = replace(session, mode=mode, limit=start.limit)
        return session, start.why

    async def measure(self) -> None:
        """Asks the backend what it can tell only between two steps; what it does not tell in time stays as it was.

        Looks at the breakers' file too.
        """
        if self.keeper is not None:
            await self.keeper.look()
        tell = getattr(self.backend, "memory", None)
        if tell is not None and self.ready:
            with suppress(TimeoutError, BackendError):
                async with asyncio.timeout(MEASURE_S):
                    self.memory = await tell()

    def present(self) -> Present:
        """For the metrics."""
        keeper = self.keeper
        ceilings = {} if keeper is None else keeper.detail(self.mode)["trusted"]
        return Present(
            in_flight=self.in_flight,
            ready=not self.unready(),
            mode=self.mode,
            breakers={} if keeper is None else keeper.records,
            ceilings={name: found["tokens"] for name, found in ceilings.items()},
            memory=self.memory,
            incidents_dropped=self.incidents.dropped,
            tasks=len(asyncio.all_tasks()),
            load=getattr(self.backend, "load", None),
        )

    def session(
        self, request: ChatRequest, owner: str = "", headers: Mapping[str, str] = MappingProxyType({})
    ) -> GuardedSession:
        """A guarded session for a parsed request; a seed that it does not name is the configured one.

        owner: whose request it is; two owners' sessions of one name are two. headers: names in any case.
        Raises RequestError for an unknown model, an impossible mode or a policy that it may not choose.
        """
        known = self.known_models()
        if request.model not in known and not self.config.model.any_name:
            raise RequestError(
                "unknown_model",
                f"model: there is no model {request.model[:80]!r} here; use one of {', '.join(known)}",
                "model",
            )
        allowed = self.config.decode.per_request
        can = self.backend.capabilities
        mode = asked_mode(request.decoding, self.mode, can.modes, allowed, can.ladder)
        if request.sampling.seed is None and self.config.decode.seed >= 0:
            request = replace(request, sampling=replace(request.sampling, seed=self.config.decode.seed))
        thinking = self.backend.info.opens_thinking
        policy = self._policy(request, headers)
        conversation, scrubbed = f"{owner}/{request.session}", 0
        if policy.scrub_history and policy.action == "enforce":
            request, scrubbed = self.loops.scrub(conversation, request)
        budget = SessionBudget(self.rewinds, conversation, policy.session_rewinds, policy.session_hours)
        return GuardedSession(
            request,
            self.backend,
            policy,
            self.sinks or Sinks((self.incidents,)),
            mode,
            thinking,
            self.shadow,
            self.config.detectors,
            budget=budget,
            origin=self.origin,
            remember=partial(self.loops.remember, conversation),
            scrubbed=scrubbed,
            whole=bool(can.ladder) and not request.stream,  # another server would have to go on behind what was sent
        )

    def _policy(self, request: ChatRequest, headers: Mapping[str, str]) -> Policy:
        lowered = {name.lower(): value for name, value in headers.items()}
        if not self.overrides.overrides and HEADER not in lowered:
            return self.policy
        tools = tuple(tool.name for tool in request.tools)
        traits = Traits((request.model, self.backend.info.id), request.api, tools, lowered)
        try:
            return self.overrides.choose(self.policy, traits)
        except PolicyRefused as refused:
            raise RequestError("forbidden" if refused.known else "invalid_request", str(refused), HEADER) from None
