"""One streamed response on the wire: frames, keep-alives, and what happens when it cannot be completed.

Must not: know an API's shapes (the encoder does), or end a broken stream as if it were complete.
Invariant: headers are sent with the first content or sign of life, so whatever fails before is a real HTTP status.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

import structlog
from aiohttp import web

from proxy import errors
from proxy.backends.base import BackendError
from proxy.conversation import ChatRequest
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Started, ThinkingDelta
from proxy.metrics import Meter

log = structlog.get_logger()

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class Encoder(Protocol):
    """What the encoders of all APIs have in common."""

    wire: errors.Wire

    def encode(self, event: Event) -> bytes: ...

    def keep_alive(self) -> bytes: ...

    def error(self, error: RequestError) -> bytes: ...

    def collect(self, event: Event) -> None: ...

    def body(self) -> dict[str, Any]: ...


async def stream(
    http: web.Request, extra: dict[str, str], events: AsyncIterator[Event], encoder: Encoder, every_s: float
) -> web.StreamResponse:
    """Writes a response as it comes. Raises only while no header was sent."""
    response = web.StreamResponse(headers=HEADERS | extra)
    complete, opening = False, b""
    try:
        async with aclosing(with_keep_alive(events, encoder, every_s)) as frames:
            async for event, data in frames:
                if not response.prepared:
                    if isinstance(event, Started):  # says nothing yet
                        opening += data
                        continue
                    if isinstance(event, Failed):
                        raise RequestError(event.kind, event.message)
                    await response.prepare(http)
                    data, opening = opening + data, b""
                await response.write(data)
                complete = isinstance(event, Finished)
    except Exception as error:
        if not response.prepared:
            raise
        if not isinstance(error, ConnectionError):  # else nobody is there to be told anything
            await response.write(encoder.error(_as_request_error(encoder.wire, error)))
    if not complete and http.transport is not None:
        http.transport.close()  # clients take a clean end for success
    return response


def _as_request_error(wire: errors.Wire, error: Exception) -> RequestError:
    if isinstance(error, BackendError):
        return errors.translate(wire, error)
    log.error("stream.failed", exc_info=error)
    return RequestError("internal", "the response could not be completed; the server's log says why")


async def with_keep_alive(
    events: AsyncIterator[Event], encoder: Encoder, every_s: float
) -> AsyncGenerator[tuple[Event | None, bytes], None]:
    """Encoded events, with keep-alive frames whenever nothing came for a while (prefill, held tool calls)."""
    pending: asyncio.Future[Event] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait((pending,), timeout=every_s)
            if not done:
                yield None, encoder.keep_alive()
                continue
            finished, pending = pending, None
            try:
                event = finished.result()
            except StopAsyncIteration:
                return
            yield event, encoder.encode(event)
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)


async def without_thinking(events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """For clients that switched thinking off: the model may think all the same, but they do not get to see it."""
    async for event in events:
        if not isinstance(event, ThinkingDelta):
            yield event


class Outcome:
    """Watches a response pass by and logs one line when it is over; only then its outcome is known.

    meter: is told of the same.
    """

    def __init__(self, request: ChatRequest, meter: Meter | None = None) -> None:
        self._request = request
        self._meter = meter
        self._last: Event | None = None

    async def watch(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """The same events."""
        async for event in events:
            self._last = event
            if self._meter is not None:
                self._meter.saw(event)
            yield event

    @contextmanager
    def logged(self) -> Iterator[None]:
        started = time.monotonic()
        kind = "abandoned"
        try:
            yield
        except (BackendError, RequestError) as error:
            kind = error.kind
            raise
        except Exception as error:
            kind = "abandoned" if isinstance(error, ConnectionError) else "internal"
            raise
        finally:
            seconds = round(time.monotonic() - started, 3)
            fields = self._fields() or {"outcome": kind}
            if self._meter is not None:
                self._meter.ended(fields["outcome"])
            log.info(
                "request.end", request_id=self._request.request_id, api=self._request.api, seconds=seconds, **fields
            )

    def _fields(self) -> dict[str, Any]:
        last = self._last
        if isinstance(last, Failed):
            return {"outcome": "failed", "kind": last.kind}
        if not isinstance(last, Finished):
            return {}
        usage = last.usage
        return {
            "outcome": last.reason,
            "mode": last.mode,
            "incidents": list(last.incidents),
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "discarded_tokens": usage.discarded_tokens,
            "filtered_tokens": usage.filtered_tokens,
            "draft_n": last.timings.draft_n,
            "draft_n_accepted": last.timings.draft_n_accepted,
        }
