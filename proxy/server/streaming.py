"""One streamed response on the wire: frames, keep-alives, and what happens when it cannot be completed.

Must not: know an API's shapes (the encoder does), or end a broken stream as if it were complete.
Invariant: headers are sent with the first content or sign of life, so whatever fails before is a real HTTP status.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from aiohttp import web

from proxy import errors
from proxy.backends.errors import BackendError, ShuttingDown
from proxy.conversation import ChatRequest
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Started, ThinkingDelta
from proxy.server.ending import Ending
from proxy.server.heartbeat import Heartbeat, until_over
from proxy.server.outlet import ClientTooSlow, Outlet, Streamed

log = structlog.get_logger()
LAST_WORD_S = 0.5
"""How long a server that ends waits for a client to take the error."""

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


@dataclass(frozen=True, slots=True)
class Pace:
    """every_s: of silence until a keep-alive frame; unread_s: see `proxy.server.outlet`; ending: of the server."""

    every_s: float
    unread_s: float
    ending: Ending


async def stream(
    http: web.Request,
    extra: dict[str, str],
    events: AsyncIterator[Event],
    encoder: Encoder,
    pace: Pace,
    passes: Callable[[Event], bool],
) -> web.StreamResponse:
    """Writes a response as it comes. passes: asked once for each event, whether the client gets it. Raises only while
    no header was sent."""
    response = Streamed(headers=HEADERS | extra)
    sending = _Sending(response, Outlet(http, response, pace.unread_s), encoder, pace.unread_s)
    try:
        with pace.ending.endable():
            await _to_its_end(sending.all(events, passes, pace.every_s))
    except Exception as error:
        if not response.prepared:
            raise
        if sending.complete:
            log.error("stream.not_closed", exc_info=error)
            return response
        await _tell(http, response, encoder, error, pace)
    if not sending.complete and http.transport is not None:
        http.transport.close()  # clients take a clean end for success
    return response


class _Sending:
    """What was sent of one response. complete: to its true end."""

    def __init__(self, response: Streamed, outlet: Outlet, encoder: Encoder, unread_s: float) -> None:
        self._response, self._outlet, self._encoder, self._unread_s = response, outlet, encoder, unread_s
        self._opening = b""
        self.complete = False

    async def all(self, events: AsyncIterator[Event], passes: Callable[[Event], bool], every_s: float) -> None:
        async with Heartbeat(every_s, self._keep_alive) as heart:
            async for event in events:
                if not passes(event):
                    continue
                await heart.pause()  # before encoding: a sign of life under way has its place in the order
                data = self._encoder.encode(event)
                if not self._response.prepared:
                    if isinstance(event, Started):  # says nothing yet
                        self._opening += data
                        heart.resume()
                        continue
                    if isinstance(event, Failed):
                        raise RequestError(event.kind, event.message)
                last = isinstance(event, Finished)
                await self._send(data, last)
                if last:
                    self.complete = True
                    break
                heart.resume()

    async def _keep_alive(self) -> None:
        await self._send(self._encoder.keep_alive())

    async def _send(self, data: bytes, last: bool = False) -> None:
        if self._opening:
            data, self._opening = self._opening + data, b""
        try:
            if last:  # not later: closing waits for the engine, and a sign of life would contradict the end
                await self._outlet.finish(data)
            else:
                await self._outlet.send(data)
        except ClientTooSlow:
            # told here: whoever waits for this is cancelled as soon as the client is cut off, and may not hear of it
            request_id = self._response.headers.get("x-request-id", "")
            log.warning("client.too_slow", request_id=request_id, unread_s=self._unread_s)
            raise


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """As a task of its own: cancelled once it ends in order, however often whoever waits for it is cancelled then."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        task.cancel()
        await until_over(task)
        raise
    task.result()


async def _tell(
    http: web.Request, response: web.StreamResponse, encoder: Encoder, error: Exception, pace: Pace
) -> None:
    """The API's in-stream error, if somebody is there to be told."""
    if isinstance(error, ConnectionError):
        return
    patience_s = min(LAST_WORD_S, pace.unread_s) if isinstance(error, ShuttingDown) else pace.unread_s
    with suppress(ConnectionError):
        await Outlet(http, response, patience_s).send(encoder.error(_as_request_error(encoder.wire, error)))


def _as_request_error(wire: errors.Wire, error: Exception) -> RequestError:
    if isinstance(error, BackendError):
        return errors.translate(wire, error)
    log.error("stream.failed", exc_info=error)
    return RequestError("internal", "the response could not be completed; the server's log says why")


class Observer(Protocol):
    """Of one request; must neither raise nor wait."""

    def saw(self, event: Event) -> None: ...

    def ended(self, outcome: str) -> None: ...


class Outcome:
    """Watches a response pass by and logs one line when it is over; only then its outcome is known.

    observers: are told of the same. thinking: False = the client switched it off. The model may think all the same, but
    it does not get to see it.
    """

    def __init__(self, request: ChatRequest, *observers: Observer, thinking: bool = True) -> None:
        self._request, self._observers, self._thinking = request, observers, thinking
        self._last: Event | None = None

    def passes(self, event: Event) -> bool:
        """Takes note of an event on its way to the client, who gets it if so."""
        self._last = event
        for observer in self._observers:
            observer.saw(event)
        return self._thinking or not isinstance(event, ThinkingDelta)

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
            for observer in self._observers:
                observer.ended(fields["outcome"])
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
