"""The client of one lane: streamed chat/completions.

Must not: send a request again once it has begun to be answered, follow a redirect, use a proxy of the environment, keep
a cookie, or buffer more than one event.
Invariant: a stream ends in exactly one way, a normal end or an UpstreamError; a stream that is closed before its end
has its connection cut, so that the server stops generating.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import deque
from collections.abc import Mapping
from math import inf
from typing import Any, Literal

import aiohttp
import orjson

from proxy.lanes.chunks import Chunk
from proxy.lanes.reading import DONE, Malformed, error_text, read_chunk
from proxy.lanes.retry_after import retry_after_s
from proxy.lanes.settings import Lane, Lanes
from proxy.sse import EventReader

CHAT = "/v1/chat/completions"
Failure = Literal["unreachable", "refused", "unavailable", "died", "stalled", "endless", "malformed", "too_large"]
"""unreachable: no connection, or none that holds until there is an answer. refused: a status below 500. unavailable:
one from 500 on, or 429. died: the connection ended in the middle of the stream, or the stream without its end.
stalled, endless: it took too long for an event, or altogether. malformed: what came is no stream of chunks.
too_large: an event is."""
AGAIN = frozenset({502, 503, 504})
"""What a router answers while an engine behind it is away."""
ANSWER_BYTES = 1 << 20
FIRST_PAUSE_S = 0.05
READ_OUT_S = 0.05
TIMER_SLACK_S = 1e-6
"""A timer may fire by a clock's resolution too early."""


class UpstreamError(Exception):
    """A lane has failed. status: of the answer, None = there was none. retry_after_s: as the server says. The message
    is safe to show to a client."""

    def __init__(
        self, failure: Failure, message: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.failure, self.status, self.retry_after_s = failure, status, retry_after_s


class Upstream:
    """One lane. name: `fast` or `plain`, for messages. environment: where its key is."""

    def __init__(self, name: str, lane: Lane, limits: Lanes, environment: Mapping[str, str] = os.environ) -> None:
        self.name, self.lane, self._limits = name, lane, limits
        self.key = lane.key_in(environment)
        self.secrets = lane.secrets_in(environment)
        self._http: aiohttp.ClientSession | None = None

    @property
    def http(self) -> aiohttp.ClientSession:
        """Made when it is first needed, since it belongs to a running loop."""
        if self._http is None:
            headers = {**self.lane.header_map(), "accept-encoding": "identity"}
            if self.key:
                headers["authorization"] = f"Bearer {self.key}"
            self._http = aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._http

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def stream(self, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> UpstreamStream:
        """Asks for a streamed response. Raises UpstreamError, for what may pass only after it has tried again."""
        data = orjson.dumps(dict(body))
        attempt = 0
        while True:
            try:
                return await self._open(data, headers or {})
            except UpstreamError as error:
                passes = error.failure == "unreachable" or error.status in AGAIN
                if not passes or attempt >= self._limits.retries:
                    raise
            await asyncio.sleep(FIRST_PAUSE_S * 2**attempt * (1 + random.random()))
            attempt += 1

    async def ask(self, path: str, body: Mapping[str, Any], seconds: float) -> Any:
        """A small question beside the streams, such as a count of tokens; the JSON that is answered. Raises
        UpstreamError."""
        try:
            async with (
                asyncio.timeout(seconds),
                self.http.post(self.lane.root + path, json=dict(body), allow_redirects=False) as response,
            ):
                answer = await _bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._error("unreachable", f"does not answer ({type(error).__name__})") from None
        if response.status != 200:
            raise self._refusal(response.status, answer, response.headers)
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError:
            raise self._error("malformed", f"answers {path} with something that is no JSON") from None

    async def _open(self, data: bytes, headers: Mapping[str, str]) -> UpstreamStream:
        limits = self._limits
        started = asyncio.get_running_loop().time()
        sent = {"content-type": "application/json", "accept": "text/event-stream", **headers}
        try:
            async with asyncio.timeout(limits.first_s):
                response = await self.http.post(self.lane.root + CHAT, data=data, headers=sent, allow_redirects=False)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise self._error(
                    "unreachable", f"does not accept a connection within {limits.connect_s:g} s"
                ) from None
            raise self._error("stalled", f"has not begun to answer within {limits.first_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._error("unreachable", f"cannot be reached ({type(error).__name__})") from None
        except ValueError:  # of aiohttp, for a line break and the like in a header
            raise self._error("refused", "cannot be asked: its key or a header of it is none") from None
        try:
            if response.status != 200:
                async with asyncio.timeout(limits.between_s):
                    raise self._refusal(response.status, await _bounded(response), response.headers)
            if response.content_type != "text/event-stream":
                raise self._error(
                    "malformed", f"answers with {response.content_type[:64]}, not with a stream of events"
                )
        except (aiohttp.ClientError, OSError, TimeoutError):
            response.close()
            raise self._error("died", "broke off its answer") from None
        except BaseException:
            response.close()
            raise
        return UpstreamStream(self, response, limits, started)

    def _refusal(self, status: int, answer: bytes, headers: Mapping[str, str]) -> UpstreamError:
        try:
            told = error_text(orjson.loads(answer), self.secrets)
        except orjson.JSONDecodeError:
            told = "it does not say what"
        failure: Failure = "unavailable" if status >= 500 or status == 429 else "refused"
        return self._error(failure, f"answers with status {status}: {told}", status, retry_after_s(headers))

    def _error(
        self, failure: Failure, what: str, status: int | None = None, again_s: float | None = None
    ) -> UpstreamError:
        return UpstreamError(failure, f"the {self.name} lane {what}", status, again_s)


class UpstreamStream:
    """One response as it comes. Single consumer; `close` may be called at any time, and more than once."""

    def __init__(self, upstream: Upstream, response: aiohttp.ClientResponse, limits: Lanes, started: float) -> None:
        self._upstream, self._response, self._limits = upstream, response, limits
        self._loop = asyncio.get_running_loop()
        self._ends, self._due = started + limits.total_s, inf
        self._timer: asyncio.TimerHandle | None = None
        self._reader = EventReader()
        self._ready: deque[str] = deque()
        self._begun = self._finished = self._over = False

    @property
    def has_more(self) -> bool:
        """A further event is there already."""
        return bool(self._ready)

    async def next(self) -> Chunk | None:
        """The next event; None after the normal end. Raises UpstreamError.

        A stream that closes after a finish reason has ended normally, also without `[DONE]`.
        """
        if self._over:
            return None
        try:
            while not self._ready:
                if not await self._read():
                    self._end()
                    return None
            data = self._ready.popleft()
            if data == DONE:
                await self._read_out()
                self._end()
                return None
            chunk = read_chunk(data, self._upstream.secrets)
        except Malformed as problem:
            self.close()
            raise self._upstream._error("malformed", f"sent no stream of chunks: {problem}") from None
        except UpstreamError:
            self.close()
            raise
        if chunk.finish is not None:
            self._finished = True
        return chunk

    def close(self) -> None:
        """Cuts the connection: what is not read is not to be generated either."""
        self._over = True
        self._unwatch()
        self._ready.clear()
        self._response.close()

    async def _read_out(self) -> None:
        """The end of the body, which is at hand: the connection can serve another request then."""
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError):
            async with asyncio.timeout(READ_OUT_S):
                if not await self._response.content.readany():
                    self._response.release()

    def _end(self) -> None:
        """Of the stream: a normal one, or it has died."""
        self.close()
        if not self._finished:
            raise self._upstream._error("died", "ended its stream before the response was complete")

    async def _read(self) -> bool:
        """Waits for further events, and takes in what has come; False at the end of the body."""
        limits = self._limits
        patience = limits.between_s if self._begun else limits.first_s
        self._due = self._loop.time() + patience
        silent = 0  # bytes that made no event; a compressed stream of line breaks is a thousand times its size
        try:
            self._watch()
            while not self._ready:
                data = await self._response.content.readany()
                if not data:
                    return False
                self._ready.extend(event.data for event in self._reader.feed(data))
                silent = 0 if self._ready else silent + len(data)
                if max(self._reader.pending, len(data), silent) > limits.event_bytes:
                    raise self._upstream._error("too_large", f"sent an event of more than {limits.event_bytes} bytes")
                if self._reader.garbled:
                    raise self._upstream._error("malformed", "sent bytes that are no text")
                self._check_time()
        except _Overdue:
            if self._loop.time() >= self._ends:
                raise self._upstream._error("endless", f"has not ended within {limits.total_s:g} s") from None
            raise self._upstream._error("stalled", f"has sent nothing for {patience:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError):  # ValueError: of a decoder of the body
            raise self._upstream._error("died", "broke off in the middle of its stream") from None
        finally:
            self._due = inf
        self._begun = True
        return True

    def _check_time(self) -> None:
        """Also of a stream that never lets anybody wait."""
        now = self._loop.time()
        if now >= self._ends or (now >= self._due and not self._ready):
            raise _Overdue

    def _watch(self) -> None:
        """One timer for all reads: nearly every event comes in time, and a timer for each would cost more than to read
        it. It may look too early, never too late."""
        due = min(self._due, self._ends)
        if self._timer is None or self._timer.when() > due:
            self._unwatch()
            self._timer = self._loop.call_at(due, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._over or self._due == inf:  # nobody reads
            return
        if self._loop.time() + TIMER_SLACK_S < min(self._due, self._ends):
            self._watch()
        else:
            self._response.content.set_exception(_Overdue())


class _Overdue(Exception):
    """What was waited for did not come in time."""


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body, or the beginning of one that is too long."""
    found = bytearray()
    async for piece in response.content.iter_any():
        found += piece
        if len(found) > ANSWER_BYTES:
            break
    return bytes(found[:ANSWER_BYTES])
