"""Connections whose requests may be no HTTP at all, or expect what nobody here does: they too are answered in an API's
shape, and say what to do.

Must not: repeat a byte of what came, or log it: it may be half of a prompt, or a key.
Invariant: such an answer ends its connection, since nobody knows where the next request would begin.
"""

from __future__ import annotations

import secrets
from typing import Any

import structlog
from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler

from proxy.errors import RequestError
from proxy.server.handlers import failed, wire_of
from proxy.server.service import Service

log = structlog.get_logger()
CONTINUE, SERVER = "100-continue", "specguard"
TLS = b"\x16\x03"
"""What a client of https begins with."""


class Runner(web.AppRunner):
    """As aiohttp's, but for those answers. service: whose metrics count them."""

    __slots__ = ("_service",)

    def __init__(self, app: web.Application, service: Service, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._service = service

    async def _make_server(self) -> web.Server:
        return _Server(self._service, await super()._make_server())


class _Server(web.Server):
    """Makes our connections for another server's handler."""

    def __init__(self, service: Service, other: web.Server) -> None:
        self._answer = other.request_handler
        super().__init__(
            self._answered,
            request_factory=other.request_factory,
            handler_cancellation=other.handler_cancellation,
            loop=other._loop,
            **other._kwargs,
        )
        self._service = service

    async def _answered(self, request: web.BaseRequest) -> web.StreamResponse:
        """Of aiohttp, a request with an unknown `Expect` gets a line of text, on every path."""
        if request.headers.get("expect", CONTINUE).strip().lower() == CONTINUE:
            return await self._answer(request)
        problem = RequestError("expectation", f"of `expect`, only {CONTINUE} is known; leave that header out")
        response = _named(
            failed(wire_of(request), problem, request_id := _request_id(), self._service.metrics), request_id
        )
        response.force_close()  # its body may come or not
        return response

    def __call__(self) -> RequestHandler:
        return _Connection(self, self._service, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    __slots__ = ("_began", "_service")

    def __init__(self, manager: web.Server, service: Service, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._service, self._began = service, b""

    def data_received(self, data: bytes) -> None:
        if not self._began:
            self._began = data[: len(TLS)]
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be read, or to what no handler could answer."""
        if request.writer.output_size > 0:
            raise ConnectionError("some of another answer was sent already")
        problem = RequestError("invalid_request", self._problem(exc))
        if status >= 500:
            log.error("request.failed", exc_info=exc)
            problem = RequestError("internal", "the server failed; its log says why")
        request_id = _request_id()
        response = _named(failed("openai", problem, request_id, self._service.metrics), request_id)
        response.force_close()
        return response

    def _problem(self, exc: BaseException | None) -> str:
        if self._began == TLS:
            return "this port speaks HTTP without TLS; use a URL that begins with http://"
        if isinstance(exc, http_exceptions.LineTooLong):
            return "the request's first line or one of its headers is too long; send what is long in the body"
        if isinstance(exc, http_exceptions.ContentEncodingError):
            return "content-encoding: the body is compressed in a way that is not understood here; use gzip, or none"
        if isinstance(exc, http_exceptions.TransferEncodingError | http_exceptions.ContentLengthError):
            return "the body is not as long, or not cut, as its headers say; send its length, or valid chunks"
        if isinstance(exc, http_exceptions.BadHttpMethod | http_exceptions.BadStatusLine):
            return "the first line is no HTTP request, such as `POST /v1/messages HTTP/1.1`"
        return "the head of the request is not valid HTTP/1.1; send `name: value` headers without control characters"


async def name_server(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """Without it, aiohttp tells its own version and Python's to everybody who asks."""
    response.headers["server"] = SERVER


def _request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _named(response: web.Response, request_id: str) -> web.Response:
    """No application prepares these answers, so nothing else puts these headers there."""
    response.headers["x-request-id"] = response.headers["request-id"] = request_id
    response.headers["server"] = SERVER
    return response


__all__ = ["Runner", "name_server"]
