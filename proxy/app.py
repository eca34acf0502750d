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

from policies.modes import DecodeMode
from proxy.backends.base import Backend, BackendError
from proxy.config import Config
from proxy.incidents import IncidentStore
from proxy.policy_source import load_policy
from proxy.server import Handlers, middleware
from proxy.service import Service

log = structlog.get_logger()
SERVICE: web.AppKey[Service] = web.AppKey("service", Service)


def build_backend(config: Config) -> Backend:
    """The built-in engine. The only place that reaches for torch, and only when called."""
    from proxy.backends.builtin import BuiltinBackend

    model = config.model
    return BuiltinBackend(
        Path(model.path) if model.path else None,
        name=model.name or None,
        device=model.device,
        dtype=model.dtype,
        threads=model.threads,
        audit_every=config.decode.audit_every,
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
    app.router.add_get("/version", handlers.version)
    app.router.add_get("/", handlers.root)
    app.cleanup_ctx.append(_lifetime)
    return app


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    service = app[SERVICE]
    loading = asyncio.create_task(_start(service), name="load-model")
    yield
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    await service.backend.stop()
    await asyncio.to_thread(service.incidents.close)


async def _start(service: Service) -> None:
    try:
        await service.backend.start()
    except BackendError as error:
        service.failure = str(error)
        log.error("model.failed", reason=str(error))
    except Exception as error:
        service.failure = f"the model could not be loaded ({type(error).__name__})"
        log.exception("model.failed")
    else:
        if str(service.mode) not in service.backend.capabilities.modes:
            usable = replace(service.mode, drafter="ngram")
            log.warning("mode.reduced", wanted=str(service.mode), mode=str(usable), reason="the model has no MTP head")
            service.mode = usable
        service.ready = True
        info, capabilities = service.backend.info, service.backend.capabilities
        log.info("model.ready", model=info.id, exactness=capabilities.exactness, **info.details)
    finally:
        service.settled.set()
