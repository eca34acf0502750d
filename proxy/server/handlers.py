"""HTTP handlers: from client bytes to a guarded session and back.

Must not: look into tokens, retry anything, or end a stream as if it were complete when it is not.
Invariant: a failure before the first event is a real HTTP status in the API's own shape; after it, the API's in-stream
error and a closed connection. A client that leaves stops the generation at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
import structlog
from aiohttp import web

from policies.overrides import HEADER
from proxy import errors
from proxy.backends.errors import BackendError
from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.metrics import Metrics
from proxy.server import openapi
from proxy.server.access import check_access, has_key, owner
from proxy.server.kept_responses import KeptResponses
from proxy.server.kept_thinking import KeptThinking
from proxy.server.outlet import ClientTooSlow, Outlet, Streamed
from proxy.server.service import Service
from proxy.server.streaming import Encoder, Outcome, Pace, stream
from proxy.versions import own_version
from proxy.wire import anthropic_parse, openai_chat_parse, openai_responses_parse
from proxy.wire.anthropic_messages import AnthropicEncoder
from proxy.wire.openai_chat import OpenAIChatEncoder
from proxy.wire.openai_responses import OpenAIResponsesEncoder
from proxy.wire.parsed import Parsed

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST: web.RequestKey[str] = web.RequestKey("request_id", str)
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SESSION_HEADERS = ("x-claude-code-session-id", "x-session-id", "x-litellm-session-id", "session-id", "thread-id")


def wire_of(request: web.BaseRequest) -> errors.Wire:
    """Whose error shape a client expects."""
    anthropic = request.path.startswith("/v1/messages") or "anthropic-version" in request.headers
    return "anthropic" if anthropic else "openai"


def middleware(service: Service) -> Any:
    """Request ids, access checks, and errors in the API's own shape."""

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        request[REQUEST] = request_id
        wire = wire_of(request)
        try:
            check_access(request, service.config.server)
            response = await handler(request)
        except RequestError as error:
            response = failed(wire, error, request_id, service.metrics)
        except BackendError as error:
            response = failed(wire, errors.translate(wire, error), request_id, service.metrics)
        except web.HTTPRequestEntityTooLarge:
            limit = service.config.server.max_body_bytes
            problem = RequestError(
                "request_too_large", f"the body is larger than {limit} bytes (server.max_body_bytes)"
            )
            response = failed(wire, problem, request_id, service.metrics)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            problem = RequestError("method_not_allowed", f"{request.method} is not possible here; use {allowed}")
            response = failed(wire, problem, request_id, service.metrics)
            response.headers["allow"] = allowed
        except web.HTTPNotFound:
            problem = RequestError("not_found", f"there is no {request.path[:200]}; see GET / for what there is")
            response = failed(wire, problem, request_id, service.metrics)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("request.failed", request_id=request_id, path=request.path)
            response = failed(
                wire, RequestError("internal", "the server failed; its log says why"), request_id, service.metrics
            )
        if not response.prepared:
            response.headers["x-request-id"] = response.headers["request-id"] = request_id
        if isinstance(response, Streamed) and response.ended:
            return response
        try:
            await Outlet(request, response, service.config.server.unread_s).finish()
        except ClientTooSlow:
            log.warning("client.too_slow", request_id=request_id, unread_s=service.config.server.unread_s)
        except ConnectionError:
            pass  # it has left, or was cut off
        return response

    return outer


def failed(wire: errors.Wire, error: RequestError, request_id: str, metrics: Metrics | None = None) -> web.Response:
    if metrics is not None:
        metrics.refused(error.kind)
    log.info("request.refused", request_id=request_id, kind=error.kind, param=error.param)
    return web.Response(
        status=errors.status(wire, error),
        body=orjson.dumps(errors.body(wire, error, request_id)),
        content_type="application/json",
        headers=errors.headers(error),
    )


class Handlers:
    """One method per route."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._kept = KeptResponses()
        self._thinking = KeptThinking()

    async def openai_chat(self, http: web.Request) -> web.StreamResponse:
        parsed = openai_chat_parse.parse(await self._body(http), self._service.config.decode.temperature)
        return await self._respond(http, parsed, OpenAIChatEncoder)

    async def openai_responses(self, http: web.Request) -> web.StreamResponse:
        kept, whose = self._kept, owner(http, self._service.config.server)
        parsed = openai_responses_parse.parse(
            await self._body(http), self._service.config.decode.temperature, lambda name: kept.get(f"{whose}/{name}")
        )

        def keep(name: str, messages: Sequence[Message]) -> None:
            kept.keep(f"{whose}/{name}", messages)

        return await self._respond(http, parsed, partial(OpenAIResponsesEncoder, parsed=parsed, keep=keep))

    async def anthropic_messages(self, http: web.Request) -> web.StreamResponse:
        parsed = anthropic_parse.parse(await self._body(http), self._service.config.decode.temperature)
        return await self._respond(http, parsed, AnthropicEncoder)

    async def count_tokens(self, http: web.Request) -> web.StreamResponse:
        parsed = anthropic_parse.parse(await self._body(http), counting=True)
        self._check_ready()
        self._service.session(parsed.request)
        request, _ = self._thinking.restored(owner(http, self._service.config.server), parsed.request)
        tokens = await self._service.backend.count_tokens(request.messages, request.tools)
        return _json({"input_tokens": tokens}, headers=_ignored(parsed))

    async def models(self, http: web.Request) -> web.StreamResponse:
        cards = [self._card(wire_of(http), name) for name in self._service.known_models()]
        if wire_of(http) == "anthropic":
            ends = {"first_id": cards[0]["id"], "last_id": cards[-1]["id"]}
            return _json({"data": cards, "has_more": False, **ends})
        return _json({"object": "list", "data": cards})

    async def model(self, http: web.Request) -> web.StreamResponse:
        name = http.match_info["model"]
        if name not in self._service.known_models():
            known = ", ".join(self._service.known_models())
            raise RequestError(
                "unknown_model", f"model: there is no model {name[:80]!r} here; use one of {known}", "model"
            )
        return _json(self._card(wire_of(http), name))

    async def health(self, _: web.Request) -> web.StreamResponse:
        """The process lives; never touches the engine."""
        return _json({"status": "ok"})

    async def ready(self, http: web.Request) -> web.StreamResponse:
        service = self._service
        if service.keeper is not None:
            await service.keeper.look()
        info, capabilities = service.backend.info, service.backend.capabilities
        reason = service.unready()
        body = {
            "ready": not reason,
            "reason": reason or None,
            "model": {"id": info.id, "fingerprint": info.fingerprint, "context_window": info.context_window}
            | info.details,
            "mode": str(service.mode),
            "exactness": capabilities.exactness,
            "modes": list(capabilities.modes),
            "guard": service.policy.action,
            "policy": {"name": service.origin.policy, "sha256": service.origin.policy_sha256},
            "planted_fault": service.config.plant or None,
            "in_flight": service.in_flight,
        }
        if capabilities.lanes:
            body["lanes"] = dict(capabilities.lanes)
        if service.keeper is not None:
            body["trust"] = service.keeper.detail(service.mode)
        if service.canaries is not None:
            body["canary"] = service.canaries.last or None
        if service.lane_watch is not None:
            body |= service.lane_watch.plain()
        if not has_key(http, service.config.server):
            body.pop("drift", None)
            body["lanes"] = _without_addresses(body.get("lanes", {}))
        return _json(body, 503 if reason else 200)

    async def metrics(self, http: web.Request) -> web.StreamResponse:
        """For Prometheus; under the same access rule as everything else."""
        service = self._service
        if service.metrics is None:
            raise web.HTTPNotFound
        await service.measure()
        body, content_type = service.metrics.exposition(http.headers.get("accept", ""))
        return web.Response(body=body, headers={"content-type": content_type})

    async def version(self, _: web.Request) -> web.StreamResponse:
        return _json({"version": own_version()})

    async def openapi(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=openapi.encoded(), content_type="application/json")

    async def root(self, _: web.Request) -> web.StreamResponse:
        """Clients probe the base URL; tell a human what is here."""
        paths = ["chat/completions", "responses", "messages", "messages/count_tokens"]
        posts = [f"POST /v1/{path}" for path in paths]
        gets = [f"GET {path}" for path in ("/v1/models", "/health", "/ready", "/metrics", "/openapi.json")]
        return _json({"service": "specguard", "endpoints": [*posts, *gets]})

    def _card(self, wire: errors.Wire, name: str) -> dict[str, Any]:
        if wire == "anthropic":
            return {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
        window = self._service.backend.info.context_window
        return {"id": name, "object": "model", "created": 0, "owned_by": "specguard", "max_model_len": window}

    async def _body(self, http: web.Request) -> bytes:
        limit = self._service.config.server.body_s
        try:
            if http.content.is_eof():  # it came with the headers, as short ones do
                return await http.read()
            async with asyncio.timeout(limit):
                return await http.read()
        except TimeoutError:
            raise RequestError(
                "body_timeout", f"the body did not arrive within {limit:g} s (server.body_s); send it again"
            ) from None
        except web.RequestPayloadError:
            raise RequestError(
                "invalid_request", "the body is not what its headers say; check content-encoding, or leave it out"
            ) from None

    def _check_ready(self) -> None:
        service = self._service
        if reason := service.not_ready():
            trouble = service.backend.trouble
            final = service.failure or (trouble is not None and trouble.final)
            raise RequestError("internal" if final else "overloaded", reason)

    async def _respond(
        self, http: web.Request, parsed: Parsed, make_encoder: Callable[[ChatRequest, str, bool], Encoder]
    ) -> web.StreamResponse:
        """Guards one response. The first event is awaited before headers are sent, so early failures are statuses."""
        service = self._service
        request = replace(
            parsed.request,
            request_id=http[REQUEST],
            session=session_key(http.headers, parsed.request),
            passed=service.config.lanes.passed(http.headers),
            owner=owner(http, service.config.server),
        )
        self._check_ready()
        transcript = http.headers.get("x-specguard-transcript") == "1"
        encoder = make_encoder(request, request.model, transcript)
        extra = {"x-request-id": http[REQUEST], "request-id": http[REQUEST]} | _ignored(parsed)
        whose = request.owner
        listening = (*service.observers(request, http.headers), self._thinking.listener(whose, request))
        outcome = Outcome(request, *listening, thinking=parsed.thinking)
        known, restored = self._thinking.restored(whose, request)
        if restored:
            extra["x-specguard-thinking-restored"] = str(restored)
        with service.counted(), outcome.logged():
            session, why = await service.begin(known, whose, http.headers)
            if session.policy.override:
                extra[HEADER] = session.policy.override
            extra["x-specguard-mode"] = str(session.mode)
            if session.scrubbed:
                extra["x-specguard-scrubbed"] = str(session.scrubbed)
                log.info("history.scrubbed", request_id=http[REQUEST], characters=session.scrubbed)
            if why:
                extra["x-specguard-mode-reason"] = re.sub(r"[^ -~]", "?", why)[:300]
            async with aclosing(session.events()) as events:
                if request.stream:
                    limits = service.config.server
                    pace = Pace(limits.keepalive_s, limits.unread_s, service.ending)
                    return await stream(http, extra, events, encoder, pace, outcome.passes)
                with service.ending.endable():
                    async for event in events:
                        if outcome.passes(event):
                            encoder.collect(event)
            return _json(encoder.body(), headers=extra)


def session_key(headers: Mapping[str, str], request: ChatRequest) -> str:
    """Which conversation a request belongs to: what the client says, else a hash of how it began."""
    for name in SESSION_HEADERS:
        value = headers.get(name, "")
        if REQUEST_ID.fullmatch(value):
            return value
    if request.session:
        return request.session
    first = next((at for at, message in enumerate(request.messages) if message.role == "user"), 1)
    opening = "\0".join(m.text for m in request.messages[: first + 1])
    return f"auto-{hashlib.sha256(opening.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _without_addresses(lanes: Any) -> dict[str, Any]:
    """For whoever has no key: where the servers are, and what they say about themselves, is nobody's business."""
    kept = ("name", "mode", "known_bad")
    return {name: {field: lane[field] for field in kept if field in lane} for name, lane in lanes.items()}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = orjson.dumps(value)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def _ignored(parsed: Parsed) -> dict[str, str]:
    names = ", ".join(_header_safe(name) for name in parsed.ignored[:32])
    return {"x-specguard-ignored": names} if names else {}


def _header_safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._\[\]-]", "?", name)[:64]
