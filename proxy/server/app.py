"""Wires a configuration, a backend and an incident store into an aiohttp application.

Must not: import torch; the built-in backend is imported only when one is built.
Invariant: everything a handler needs hangs on the `Service` that it was made with; there are no module globals.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import structlog
from aiohttp import web

from policies.breaker import BreakerSettings
from policies.modes import PLAIN, DecodeMode
from policies.trust import Served
from proxy.backends.base import Backend, Capabilities
from proxy.backends.errors import BackendError
from proxy.backends.lanes import LanesBackend
from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.needs import read_qualification, require_telemetry
from proxy.configuration.policy_source import load_policy
from proxy.incidents import IncidentSink, IncidentStore
from proxy.lanes.gauges import LaneGauges
from proxy.lanes.meter import MeterSettings
from proxy.lanes.watch import LaneWatch, WatchedBackend, WatchSettings
from proxy.metrics import Metrics
from proxy.replays.automatic import AutomaticReplay, AutomaticSettings
from proxy.replays.runs import Limits
from proxy.server.handlers import Handlers, middleware
from proxy.server.service import Service
from proxy.server.spare_memory import give_back
from proxy.server.unreadable import Runner, name_server
from proxy.sinks import Sinks
from proxy.trust.canaries import Canaries, CanarySettings
from proxy.trust.keeper import TrustKeeper
from proxy.trust.store import TrustStore, beside
from proxy.versions import own_version

log = structlog.get_logger()
SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
LANE_ANSWER_TOKENS = 512
"""Of a canary's answer: other people's models may think before they say it."""
CLEANUP_S = 1.0
"""What responses get once their time to end is over; it is `server.drain_s` that gives them time."""


def build_backend(config: Config) -> Backend:
    """The lanes that are configured, else the built-in engine. The only place that reaches for torch, and only then."""
    if config.lanes.configured:
        return LanesBackend(config.lanes, name=config.model.name)
    from proxy.backends.builtin import BuiltinBackend

    model = config.model
    return BuiltinBackend(
        Path(model.path) if model.path else None,
        name=model.name or None,
        device=model.device,
        dtype=model.dtype,
        threads=model.threads,
        audit_every=config.decode.audit_every,
        audit_share=config.decode.audit_share,
        shadow_every=config.decode.shadow_every,
        max_turns=model.max_turns,
        max_waiting=model.max_waiting,
        keep=model.kept_prefixes,
        keep_bytes=model.kept_prefix_mib << 20,
        force_low_bits=config.decode.force_low_bits,
        shadow_bytes=config.decode.shadow_mib << 20,
        plant=config.plant or None,
    )


def create_app(config: Config, backend: Backend, incidents: IncidentStore) -> web.Application:
    """The server; the backend loads in the background, `/ready` tells when it is done.

    Raises ConfigProblem for a policy file that cannot be used.
    """
    policy, overrides = load_policy(config.guard)
    service = Service(
        config=config,
        backend=backend,
        incidents=incidents,
        policy=policy,
        overrides=overrides,
        mode=DecodeMode.parse(config.decode.mode),
    )
    _watch_over(service)
    handlers = Handlers(service)
    app = web.Application(client_max_size=config.server.max_body_bytes, middlewares=[middleware(service)])
    app[SERVICE] = service
    app.router.add_post("/v1/chat/completions", handlers.openai_chat)
    app.router.add_post("/v1/responses", handlers.openai_responses)
    app.router.add_post("/v1/messages", handlers.anthropic_messages)
    app.router.add_post("/v1/messages/count_tokens", handlers.count_tokens)
    app.router.add_get("/v1/models", handlers.models)
    app.router.add_get("/v1/models/{model:.+}", handlers.model)
    app.router.add_get("/health", handlers.health)
    app.router.add_get("/ready", handlers.ready)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/version", handlers.version)
    app.router.add_get("/openapi.json", handlers.openapi)
    app.router.add_get("/", handlers.root)
    app.on_response_prepare.append(name_server)
    app.cleanup_ctx.append(_lifetime)
    return app


def create_runner(app: web.Application) -> web.AppRunner:
    """What serves it. A handler whose client leaves is cancelled, which is how generation stops."""
    return Runner(
        app,
        app[SERVICE],
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=CLEANUP_S,
        keepalive_timeout=app[SERVICE].config.server.idle_s,
    )


def _watch_over(service: Service) -> None:
    """Breakers, canaries and metrics, and everybody who hears of incidents."""
    config, limits = service.config, service.config.breaker
    path = Path(config.trust.path) if config.trust.path else beside(service.incidents.path)
    settings = BreakerSettings(limits.trips, limits.window_s, limits.cool_down_s, limits.most_cool_down_s)
    service.keeper = keeper = TrustKeeper(TrustStore(path), settings)
    probes = CanarySettings(limits.canary_tokens, limits.canary_quiet_s, needs_hit=config.model.kept_prefixes > 0)
    service.canaries = Canaries(keeper, service.backend, service.idle, probes)
    service.metrics = metrics = Metrics(own_version(), service.known_models)
    metrics.show(service.present)
    # the store first: what the others do with a record is on its way to disk then
    members: tuple[IncidentSink, ...] = (service.incidents, keeper, metrics)
    if config.telemetry.endpoint:
        require_telemetry()
        from proxy.telemetry import Telemetry

        service.telemetry = Telemetry(config.telemetry.endpoint, service.known_models)
        members = (*members, service.telemetry)
    if config.replay.automatic:
        replay = config.replay
        spent = Limits(replay.max_tokens, replay.max_seconds)
        service.replays = AutomaticReplay(
            service.backend,
            lambda judgement: sinks.judged(judgement),
            service.idle,
            lambda: service.draining,
            AutomaticSettings(spent, replay.quiet_s, service.policy.hold_call_chars, config.detectors),
            service.canaries.spare,
        )
        members = (*members, service.replays)
    sinks = service.sinks = Sinks(members)


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    tasks = [
        asyncio.create_task(_start(service), name="load-model"),
        asyncio.create_task(give_back(service), name="give-memory-back"),
    ]
    if service.canaries is not None:
        tasks.append(asyncio.create_task(_look_after(service, service.canaries), name="canaries"))
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if service.replays is not None:
        await service.replays.close()
    if service.lane_watch is not None:
        await service.lane_watch.close()
    await service.backend.stop()
    await asyncio.to_thread(service.incidents.close)
    if service.keeper is not None:
        await asyncio.to_thread(service.keeper.close)
    if service.telemetry is not None:
        await service.telemetry.close()


def _watch_lanes(service: Service, keeper: TrustKeeper) -> None:
    """Where the backend is made of other people's servers."""
    backend, canaries = service.backend, service.canaries
    if not isinstance(backend, WatchedBackend):
        return
    lanes = service.config.lanes
    meter = MeterSettings(lanes.meter_share, tokens_per_hour=lanes.meter_tokens, quiet_s=service.config.replay.quiet_s)
    spare = asyncio.Lock() if canaries is None else canaries.spare
    settings = WatchSettings(lanes.metrics_s, lanes.look_every_s, meter)
    ours = backend if isinstance(backend, LanesBackend) else None
    watch = LaneWatch(
        backend.servers,
        keeper,
        service.idle,
        spare,
        settings,
        renew=None if ours is None else ours.renew,
        tripped=None if ours is None else ours.clean_starts.tripped,
    )
    service.lane_watch = backend.watch = watch
    if canaries is not None:
        canaries.checks = watch
        canaries.answer_tokens = min(LANE_ANSWER_TOKENS, backend.info.context_window // 8)
    if service.sinks is not None:
        service.sinks = Sinks((*service.sinks.members, watch))
    if service.metrics is not None:
        service.metrics.registry.register(LaneGauges(watch))
    watch.start(backend.info.context_window)


async def _look_after(service: Service, canaries: Canaries) -> None:
    """Canaries, from when there is a model."""
    await service.settled.wait()
    if service.ready:
        try:
            await canaries.run()
        except Exception:
            log.exception("canaries.ended", consequence="open breakers stay open until they are reset")


async def _start(service: Service) -> None:
    try:
        path = service.config.trust.qualification
        qualification = await asyncio.to_thread(read_qualification, path) if path else None
        await service.backend.start()
        service.mode = _usable(service.mode, service.backend.capabilities)
        if service.keeper is not None:
            info, modes = service.backend.info, service.backend.capabilities.modes
            served = Served(info.fingerprint, info.tool_format, info.context_window)
            ceiling = service.config.trust.ceiling_tokens
            await asyncio.to_thread(service.keeper.serve, served, modes, qualification, ceiling)
            for key, record in service.keeper.records.items():
                if record.state != "closed":
                    log.warning("breaker.still_open", key=str(key), accused=record.axis, trips=len(record.trips))
            _watch_lanes(service, service.keeper)
    except (BackendError, ConfigProblem) as error:
        service.failure = str(error)
        log.error("model.failed", reason=str(error))
    except Exception as error:
        service.failure = f"the model could not be loaded ({type(error).__name__})"
        log.exception("model.failed")
    else:
        service.ready = True
        info, capabilities = service.backend.info, service.backend.capabilities
        log.info("model.ready", model=info.id, exactness=capabilities.exactness, **info.details)
    finally:
        service.settled.set()


def _usable(wanted: DecodeMode, capabilities: Capabilities) -> DecodeMode:
    """The configured mode, without drafts by a head that the model lacks; of lanes the fast one's, unless plain is what
    was configured. Raises BackendError for another codec: it would take more memory than was asked for."""
    if ladder := capabilities.ladder:
        return DecodeMode.parse(ladder[-1] if wanted == PLAIN else ladder[0])
    modes = capabilities.modes
    if str(wanted) in modes:
        return wanted
    usable = replace(wanted, drafter="ngram")
    codecs = {DecodeMode.parse(mode).codec for mode in modes}
    if codecs and wanted.codec not in codecs:
        known = ", ".join(sorted(codecs))
        raise BackendError(f"decode.mode: codec {wanted.codec!r} does not fit this model's heads; use one of {known}")
    log.warning("mode.reduced", wanted=str(wanted), mode=str(usable), reason="the model has no MTP head")
    return usable
