"""A pool of other people's servers as a backend: a fast lane, and a plain one to fall back to.

Must not: import an engine, decide when to fall back, or claim of a server what probing has not found.
Invariant: a mode names a lane: the fast lane's own is the fast lane, every other one is the plain lane.

A server cannot be rewound. Falling back means to close its stream and to ask the plain lane: from the start where
nothing was delivered, else behind the delivered text, which it is given as the beginning of its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import structlog

from policies.modes import DecodeMode
from proxy.backends.base import Capabilities, Load, ModelInfo
from proxy.backends.clean_starts import CleanStarts, fresh_salt, salt_of
from proxy.backends.errors import Trouble
from proxy.backends.lane_ends import LaneFailed, failure, unasked
from proxy.backends.lane_generation import LaneGeneration
from proxy.conversation import ChatRequest, Message, Tool
from proxy.lanes.asking import Target
from proxy.lanes.capabilities import ErrorFrame, LaneCapabilities
from proxy.lanes.dialect import Attempt, body_for, counting_body
from proxy.lanes.identity import LaneSilent
from proxy.lanes.probe import Probed, probe
from proxy.lanes.running_mode import running_mode
from proxy.lanes.settings import Lane, Lanes
from proxy.lanes.upstream import Upstream, UpstreamError, UpstreamStream
from proxy.lanes.watch import LaneWatch
from proxy.replays.lane_runs import LaneTraits

log = structlog.get_logger()
UNKNOWN_WINDOW = 32_768
COUNT_S = 10.0
CHARS_PER_TOKEN = 3.5
"""Of code and English, for servers that do not count."""
MESSAGE_TOKENS = 6
Prober = Callable[[Target], Awaitable[Probed]]


@dataclass(frozen=True, slots=True)
class Server:
    """A lane that was probed. model: that requests name; mode: that it runs in."""

    name: str
    lane: Lane
    upstream: Upstream
    probed: Probed
    model: str
    mode: DecodeMode

    @property
    def can(self) -> LaneCapabilities:
        return self.probed.capabilities

    def told(self) -> dict[str, Any]:
        """For `/ready` and incidents."""
        return {**self.probed.plain(), "mode": str(self.mode)}


class LanesBackend:
    """name: that clients ask for, "" = the model's own. prober: finds out what a server can do. watch: over the lanes,
    None = nobody does."""

    def __init__(
        self,
        lanes: Lanes,
        *,
        name: str = "",
        prober: Prober = probe,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._lanes, self._name, self._prober, self._environment = lanes, name, prober, environment
        self._servers: tuple[Server, ...] = ()
        self.watch: LaneWatch | None = None
        self.clean_starts = CleanStarts()
        self._steps = self._running = 0
        self.info = ModelInfo(name or lanes.fast.model or "lanes", "", 0, "json")
        self.capabilities = Capabilities(False, False, False, False, "unknown", constraints=True)

    @property
    def trouble(self) -> Trouble | None:
        """Lanes come and go by themselves; a request finds out."""
        return None

    @property
    def load(self) -> Load:
        return Load(self._steps, self._running, 0)

    @property
    def servers(self) -> tuple[Server, ...]:
        """The fast lane, then the plain one if there is one; none before the start."""
        return self._servers

    async def start(self) -> None:
        """Asks the lanes what they can do. Raises BackendError if none answers; one that is away may come later."""
        wanted = [("fast", self._lanes.fast)]
        if self._lanes.has_plain:
            wanted.append(("plain", self._lanes.plain_lane))
        servers = await asyncio.gather(*(self._probe(name, lane) for name, lane in wanted))
        if all(server.probed.away for server in servers):
            await asyncio.gather(*(server.upstream.close() for server in servers))
            raise LaneFailed("; ".join(server.probed.away for server in servers))
        for server in servers:
            if server.probed.away:
                log.error("lane.away", lane=server.name, reason=server.probed.away, consequence="the other one serves")
        self._adopt(tuple(servers))

    def saw_failure(self, server: Server, frame: ErrorFrame) -> None:
        """How a stream of it fails in its middle, which no probe can provoke of a server that refuses early."""
        now = next(each for each in self._servers if each.name == server.name)
        if now.can.error_frame != "unknown":
            return
        reasons = {name: why for name, why in now.probed.reasons.items() if name != "error_frame"}
        found = replace(now.probed, capabilities=replace(now.can, error_frame=frame), reasons=reasons)
        servers = self.renew(server.name, found)
        if self.watch is not None:
            self.watch.lanes = tuple(servers)

    def renew(self, name: str, probed: Probed) -> Sequence[Server]:
        """A lane's server was begun anew, and this is what was found of it; all lanes. It is spoken of in the mode that
        it had: breakers and incidents go by that."""
        old = next(server for server in self._servers if server.name == name)
        mode = running_mode(old.lane, probed.capabilities, fast=name == "fast")
        if mode != old.mode:
            log.warning("lane.other_mode", lane=name, was=str(old.mode), now=str(mode), remedy="restart specguard")
        new = replace(old, probed=probed, model=old.lane.model or probed.model)
        self._servers = tuple(new if server is old else server for server in self._servers)
        self.capabilities = self._can()
        return self._servers

    async def stop(self) -> None:
        await asyncio.gather(*(server.upstream.close() for server in self._servers))

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> LaneGeneration:
        """Asks the lane that runs in `mode`; if it cannot be asked, the plain one, and tells of it as a finding.

        What begins on the plain lane begins with a prefix of its own: it does so since the fast one is not trusted."""
        server = self.server_for(mode)
        salt, fresh = None, False
        if server is not self._servers[0]:
            salt, fresh = self.clean_starts.take(request.owner, request.session)
        else:
            self.clean_starts.served(request.owner, request.session)
        sampling = request.sampling
        seed = sampling.seed
        if seed is None:
            seed = secrets.randbits(31) if sampling.temperature > 0 else 0
        try:
            stream = await self.open(server, request, seed, fresh=fresh, salt=salt)
        except UpstreamError as error:
            plain = self._servers[-1]
            if plain is server:
                raise unasked(server.name, error) from None
            try:
                reserve = await self.open(plain, request, seed, fresh=True, number=1)
            except UpstreamError as other:
                raise unasked(server.name, error, (plain.name, other)) from None
            found = failure(str(error), server.name, error.failure, 0)
            return LaneGeneration(self, request, server, None, seed, found=found, reserve=reserve)
        return LaneGeneration(self, request, server, stream, seed)

    async def count_tokens(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> int:
        """By the plain lane, which is less busy; estimated where it cannot or does not."""
        server = self._servers[-1]
        if self._lanes.tokenize and server.can.kind in ("vllm", "sglang", "llamacpp"):
            try:
                if (count := await self._count(server, counting_body(messages, tools, server.model))) is not None:
                    return count
            except UpstreamError as error:
                log.debug("lane.not_counted", lane=server.name, why=error.failure)
        text = sum(len(m.text) + len(m.thinking) + sum(len(str(c.arguments)) for c in m.calls) for m in messages)
        text += sum(len(tool.description) + len(orjson.dumps(dict(tool.parameters))) for tool in tools)
        return round(text / CHARS_PER_TOKEN) + MESSAGE_TOKENS * (len(messages) + len(tools))

    async def open(
        self,
        server: Server,
        request: ChatRequest,
        seed: int,
        *,
        fresh: bool = False,
        salt: str | None = None,
        prefill: str = "",
        limit: int | None = None,
        number: int = 0,
    ) -> UpstreamStream:
        """fresh: nothing of a prefix cache is taken over. salt: of it, None = a new one if fresh, else as configured.
        number: of earlier attempts. Raises UpstreamError."""
        if salt is None:
            salt = fresh_salt() if fresh else salt_of(self._lanes.cache_salt, request.owner)
        attempt = Attempt(server.model, server.can, seed, prefill, salt, fresh, limit)
        body = body_for(request, attempt)
        headers = dict(request.passed)
        headers.setdefault("x-session-id", request.session)
        headers["x-request-id"] = request.request_id if number == 0 else f"{request.request_id}.{number}"
        return await server.upstream.stream(body, {name: value for name, value in headers.items() if value})

    def server_for(self, mode: DecodeMode) -> Server:
        """Raises BackendError before the start."""
        if not self._servers:
            raise LaneFailed("the lanes have not been asked yet; retry in a moment")
        return self._servers[0] if mode == self._servers[0].mode else self._servers[-1]

    def changed(self, before: DecodeMode, after: DecodeMode) -> dict[str, Any]:
        """What an attempt in the mode `after` has otherwise, for the incident of a fall back."""
        one, other = self.server_for(before), self.server_for(after)
        changed: dict[str, Any] = {"lane": [one.name, other.name]}
        for name in ("kind", "version", "speculation", "kv", "prefix_cache"):
            pair = [getattr(one.can, name), getattr(other.can, name)]
            if pair[0] != pair[1]:
                changed[name] = pair
        changed["cache_salt"] = "fresh" if other.can.cache_salt or other.can.kind == "llamacpp" else "none"
        changed["grammar"] = "same"
        return changed

    def traits_of(self, mode: DecodeMode) -> LaneTraits:
        """Of the lane that a response in `mode` came from, for asking again."""
        server, plain = self.server_for(mode), self._servers[-1]
        salted = server.can.cache_salt or server.can.kind == "llamacpp"
        told = set(self.changed(server.mode, plain.mode)) & {"kind", "version", "speculation", "kv"}
        if server.mode.drafter != plain.mode.drafter:
            told.add("speculation")
        if server.mode.codec != plain.mode.codec:
            told.add("kv")
        return LaneTraits(server.name, plain.name if len(self._servers) > 1 else "", salted, tuple(sorted(told)))

    async def ask_again(self, request: ChatRequest, lane: str, seed: int, *, fresh: bool) -> LaneGeneration:
        """A response from its beginning, from this lane and no other. Raises BackendError."""
        server = next(each for each in self._servers if each.name == lane)
        try:
            stream = await self.open(server, request, seed, fresh=fresh, number=1)
        except UpstreamError as error:
            raise unasked(server.name, error) from None
        return LaneGeneration(self, request, server, stream, seed)

    def began(self) -> None:
        self._running += 1

    def ended(self) -> None:
        self._running -= 1

    def stepped(self) -> None:
        self._steps += 1

    async def _probe(self, name: str, lane: Lane) -> Server:
        upstream = Upstream(name, lane, self._lanes, self._environment)
        target = Target.of(name, lane, self._environment)
        try:
            probed = await self._prober(target)
        except LaneSilent as silent:
            kind = lane.kind if lane.kind != "auto" else "openai"
            probed = Probed(target, lane.model, LaneCapabilities(kind), away=str(silent))
        mode = running_mode(lane, probed.capabilities, fast=name == "fast")
        return Server(name, lane, upstream, probed, lane.model or probed.model, mode)

    def _adopt(self, servers: tuple[Server, ...]) -> None:
        fast, plain = servers[0], servers[-1]
        if len(servers) > 1 and fast.mode == plain.mode:
            log.warning("lanes.alike", mode=str(fast.mode), remedy="declare the mode of both lanes, or swap them")
            if fast.mode.speculates:
                plain = replace(plain, mode=DecodeMode("none", plain.mode.codec))
            else:
                fast = replace(fast, mode=DecodeMode("mtp", fast.mode.codec))
            servers = (fast, plain)
        self._servers = servers
        windows = [server.lane.window or server.can.context_window or 0 for server in servers]
        window = min((each for each in windows if each), default=UNKNOWN_WINDOW)
        identity = [[s.lane.root, s.model, s.can.kind, s.can.version, str(s.mode)] for s in servers]
        name = self._name or fast.model or "lanes"
        fingerprint = "lanes:" + hashlib.sha256(orjson.dumps(identity)).hexdigest()[:32]
        details = {f"{s.name}_lane": f"{s.can.kind} {s.can.version} {s.mode}".replace("  ", " ") for s in servers}
        self.info = ModelInfo(name, fingerprint, window, "json", details=details)
        self.capabilities = self._can()

    def _can(self) -> Capabilities:
        servers, can = self._servers, [server.can for server in self._servers]
        modes = tuple(dict.fromkeys(str(server.mode) for server in servers))
        return Capabilities(
            rewinds=len(servers) > 1,
            token_ids=all(each.token_ids for each in can),
            logprobs=all(each.logprobs and each.logprobs_under_speculation is not False for each in can),
            audits=False,
            exactness="unknown",
            modes=modes,
            constraints=True,
            ladder=modes,
            lanes={server.name: server.told() for server in servers},
        )

    async def _count(self, server: Server, body: Mapping[str, Any]) -> int | None:
        if server.can.kind == "llamacpp":
            prompt = await server.upstream.ask("/apply-template", body, COUNT_S)
            text = prompt.get("prompt") if isinstance(prompt, dict) else None
            if not isinstance(text, str):
                return None
            query = {"content": text, "add_special": True, "parse_special": True, "model": server.model}
            answer = await server.upstream.ask("/tokenize", query, COUNT_S)
            tokens = answer.get("tokens") if isinstance(answer, dict) else None
            return len(tokens) if isinstance(tokens, list) else None
        answer = await server.upstream.ask("/tokenize", body, COUNT_S)
        count = answer.get("count") if isinstance(answer, dict) else None
        return count if type(count) is int and count >= 0 else None
