"""One response from the lanes of a pool: the stream of one, and after a fall back that of another.

Must not: decide to fall back, repeat anything that was delivered, or leave a stream open that nobody reads.
Invariant: the deltas' positions rise without a gap, from wherever a rewind has put them; a lane's failure is told once
as a finding and is an error after that.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from detectors.finding import Finding
from policies.modes import DecodeMode
from proxy.backends.base import Delta, EndReason, Rebuild, RewindReport, StepStats, Token
from proxy.backends.counted import Counted
from proxy.backends.errors import BackendError
from proxy.backends.lane_ends import LaneFailed, as_backend_error, empty, end_of, failure, not_taken_over, odd_end
from proxy.backends.lane_start import Continuation
from proxy.backends.lane_tokens import LaneTokens
from proxy.conversation import ChatRequest
from proxy.lanes.chunks import Chunk, Counts
from proxy.lanes.upstream import UpstreamError, UpstreamStream

if TYPE_CHECKING:
    from proxy.backends.lanes import LanesBackend, Server

log = structlog.get_logger()
MOST_TOKENS = 64
"""Tokens of one delta: a chunk of a megabyte must not keep everybody else waiting."""
OVERRUN, MADE_SHARE = 64, 8
"""Tokens beyond a limit that end a stream; tokens made of text may be so many times as many as the server's own."""
LEAST_WINDOW, MOST_CHARS = 65_536, 32
"""Tokens of a window at least, and characters of a stream for each of them: whether or not a lane tells its window."""
MOST_EMPTY, MOST_BEHIND = 1 << 17, 4096
"""Chunks in a row that say nothing, not even an id; tokens behind the finish reason, where a chunk or two was seen."""
USAGE_S = 2.0
"""How long the usage is waited for, behind the finish reason."""


class LaneGeneration:
    """stream: None = the lane could not be asked, which `found` tells. reserve: an open stream of the plain lane."""

    prompt_ids: tuple[int, ...] = ()

    def __init__(
        self,
        backend: LanesBackend,
        request: ChatRequest,
        server: Server,
        stream: UpstreamStream | None,
        seed: int,
        *,
        found: Finding | None = None,
        reserve: UpstreamStream | None = None,
    ) -> None:
        self._backend, self._request, self._server = backend, request, server
        self._stream, self._reserve = stream, reserve
        self._pending = found
        self._error: BackendError | None = None if found is None else LaneFailed(str(found.evidence["told"]))
        self._tokens: list[Token] = []  # all that was given out and not rewound
        self._reader = LaneTokens(server.can.token_ids)
        self._start: Continuation | None = None
        self._gathered: list[Token] = []  # that came and are in no delta yet
        self._ready: deque[Delta] = deque()
        self._ended = self._closed = False
        self._attempts, self._kept = 0, 0
        self._said = 0  # characters of this stream
        self._most = MOST_CHARS * max(LEAST_WINDOW, backend.info.context_window)
        self._counts = Counts()
        self._began = self._stepped = time.perf_counter()
        self._speaks = False
        self.prompt_tokens = self.cached_tokens = 0
        self.prompt_ms = 0.0
        self.seed = seed
        self._metered = backend.watch is not None and backend.watch.chooses(request, server.mode)
        self._prompt_ids: tuple[int, ...] = ()
        backend.began()

    @property
    def counted(self) -> Counted:
        """completion only where the tokens are not the server's own."""
        counts = self._counts
        completion = None
        if not self._server.can.token_ids and counts.completion is not None and self._ended:
            completion = self._kept + counts.completion
        return Counted(completion, counts.drafted, counts.accepted)

    async def next(self, waits: Callable[[Delta], bool] | None = None) -> Delta | None:
        if self._ready:
            await asyncio.sleep(0)  # a long chunk is many steps, and others want to be served between them
            return self._take()
        if self._pending is not None:
            found, self._pending = self._pending, None
            return self._delta((), found=found)
        if self._error is not None:
            raise self._error
        if self._ended or self._stream is None:
            return None
        await self._listen(self._stream)
        return self._take()

    async def _listen(self, stream: UpstreamStream) -> None:
        """Reads chunks until there is a delta: of all that has come, since a delta costs more than a chunk."""
        name, chunks, silent = self._server.name, 0, 0
        while not self._ready:
            try:
                chunk = await stream.next()
            except UpstreamError as error:
                if error.failure == "died":
                    self._backend.saw_failure(self._server, "closes")
                return self._fail(str(error), error.failure, as_backend_error(error))
            if chunk is None:
                return self._fail("the lane ended its stream without an end", "died")
            if chunk.error is not None:
                self._backend.saw_failure(self._server, "error_object")
                return self._fail(f"the {name} lane failed: {chunk.error}", "error")
            self._said += len(chunk.text) + len(chunk.thinking) + sum(len(call.arguments) for call in chunk.calls)
            if self._said > self._most:
                return self._fail(f"the {name} lane says more than fits in its window", "endless")
            before = len(self._gathered)
            await self._read(chunk)
            silent = silent + 1 if len(self._gathered) == before else 0
            if silent or not stream.has_more or len(self._gathered) >= MOST_TOKENS:
                self._hand_out()
            chunks += 1
            if chunks % MOST_TOKENS == 0:
                await asyncio.sleep(0)  # they come many at a time
            if silent > MOST_EMPTY and not self._ready:
                return self._fail(f"the {name} lane sends chunks and says nothing", "endless")

    async def rewind(self, position: int, mode: DecodeMode, rebuild: Rebuild = "none") -> RewindReport:
        """Leaves the stream and asks the lane of `mode`. Raises BackendError where it cannot go on from there."""
        started = time.perf_counter()
        self._leave()
        server = self._backend.server_for(mode)
        kept = self._tokens[:position]
        text = self._delivered(kept, server)
        discarded = len(self._tokens) - len(kept)
        self._start = Continuation(text, echoes=server.can.kind == "llamacpp") if text else None
        self._attempts += 1
        limit = self._request.max_tokens
        stream, self._reserve = self._reserve, None
        if stream is None or text:
            if stream is not None:
                stream.close()
            try:
                stream = await self._backend.open(
                    server,
                    self._request,
                    self.seed,
                    fresh=True,
                    prefill="" if self._start is None else self._start.prefill,
                    limit=None if limit is None else max(1, limit - len(kept)),
                    number=self._attempts,
                )
            except UpstreamError as error:
                raise not_taken_over(error) from None
        if self._closed:  # meanwhile
            stream.close()
        self._tell_drafts()
        self._stream, self._server, self._reader = stream, server, LaneTokens(server.can.token_ids)
        self._tokens, self._kept = kept, len(kept)
        self._ready.clear()
        self._gathered = []
        self._pending, self._error, self._ended, self._speaks = None, None, False, bool(text)
        self._counts, self._said = Counts(), 0
        self._stepped = time.perf_counter()
        return RewindReport(len(kept), discarded, 0, (self._stepped - started) * 1e3, server.mode, "L3")

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._backend.ended()
            self._tell_drafts()
            watch = self._backend.watch
            if self._metered and self._ended and not self._attempts and watch is not None:
                ids = [token.id for token in self._tokens]
                watch.finished(self._request, self._server.mode, self._prompt_ids, ids)
            self._leave()

    def _leave(self) -> None:
        """So that the lane stops generating."""
        if self._stream is not None:
            self._stream.close()
        if self._closed and self._reserve is not None:
            self._reserve.close()

    def _tell_drafts(self) -> None:
        watch, counts = self._backend.watch, self._counts
        if watch is not None and counts.drafted and counts.accepted is not None:
            watch.drafted(self._server.mode, counts.drafted, counts.accepted)

    def _delivered(self, kept: Sequence[Token], server: Server) -> str:
        """The text among what was delivered, for the lane to go on behind it. Thinking is begun anew. Raises
        BackendError."""
        parts = [part for token in kept for part in token.parts or ()]
        if any(part.channel == "call" for part in parts):
            raise LaneFailed("a tool call was sent already, and no other lane can go on behind it")
        text = "".join(part.text for part in parts if part.channel == "text")
        if not text.strip():
            return ""
        if not server.can.prefill:
            raise LaneFailed(
                f"the response went wrong after its text had begun to be sent, and the {server.name} lane cannot "
                "continue a text; ask again"
            )
        if self._request.demands.text_schema is not None:
            raise LaneFailed("a text of a demanded form went wrong after it had begun to be sent; ask again")
        return text

    async def _read(self, chunk: Chunk) -> None:
        """Gathers what a chunk says; its end makes deltas of it."""
        self.prompt_tokens = self.prompt_tokens or chunk.prompt_tokens or 0
        if self._metered and chunk.prompt_ids:
            self._prompt_ids = chunk.prompt_ids
        if chunk.counts is not None:
            self._count(chunk.counts)
        if self._start is not None:
            chunk = self._continued(chunk, self._start)
        self._speaks = self._speaks or bool(chunk.text.strip() or chunk.calls)
        end: EndReason | None = None
        stop: str | None = None
        found: Finding | None = None
        if chunk.finish is not None:
            self._hand_out()  # what came before is not held to be wrong if this end is
            end, stop = end_of(chunk, self._request.stop)
        told = chunk.stop is not None
        tokens = self._reader.take(chunk, ends_turn=end == "stop" and not told and not (chunk.text or chunk.calls))
        if end is not None:
            tokens += self._reader.finish()
            tokens += await self._wait_for_usage()
            found = odd_end(chunk, self._server.name, len(self._tokens) + len(tokens))
            if found is None and not self._speaks and end != "length":
                found = empty(self._server.name, len(self._tokens) + len(tokens))
            self._ended = True
        elif self._is_overrun(len(self._gathered) + len(tokens)):
            end, self._ended = "length", True
            log.warning("lane.overran", lane=self._server.name, max_tokens=self._request.max_tokens)
            self._leave()
        self._gathered += tokens
        if end is not None:
            earlier = len(self._ready)
            self._hand_out()
            last = self._ready.pop() if len(self._ready) > earlier else self._delta((), self._step_ms())
            self._ready.append(replace(last, end=end, stop_sequence=stop, found=found))

    def _hand_out(self) -> None:
        """Makes deltas of what was gathered."""
        if not self._gathered:
            return
        tokens, self._gathered, milliseconds = self._gathered, [], self._step_ms()
        for first in range(0, len(tokens), MOST_TOKENS):
            self._ready.append(self._delta(tokens[first : first + MOST_TOKENS], milliseconds))
            milliseconds = 0.0

    def _step_ms(self) -> float:
        """Since the last delta was made."""
        before, self._stepped = self._stepped, time.perf_counter()
        return (self._stepped - before) * 1e3

    def _is_overrun(self, more: int) -> bool:
        """The lane ignores the request's limit or its own context window; nobody would end it otherwise."""
        tokens, limit, window = len(self._tokens) + more, self._request.max_tokens, self._server.can.context_window
        slack, of_made = (OVERRUN, 1) if self._server.can.token_ids else (OVERRUN * MADE_SHARE, MADE_SHARE)
        if limit is not None and tokens > limit * of_made + slack:
            return True
        return window is not None and self.prompt_tokens + tokens > window * of_made + slack

    def _continued(self, chunk: Chunk, start: Continuation) -> Chunk:
        text = start.take(chunk.text) if chunk.text else ""
        if chunk.calls or chunk.finish is not None:
            text = start.finish() + text
        if not start.is_open:
            self._start = None
        return chunk._replace(text=text)

    async def _wait_for_usage(self) -> list[Token]:
        """What comes behind the finish reason: usage, and now and then more of the response."""
        tokens: list[Token] = []
        assert self._stream is not None
        try:
            async with asyncio.timeout(USAGE_S):
                while (chunk := await self._stream.next()) is not None and len(tokens) < MOST_BEHIND:
                    if chunk.counts is not None:
                        self._count(chunk.counts)
                    if chunk.error is None:
                        tokens += self._reader.take(chunk._replace(finish="stop"))
                    self._speaks = self._speaks or bool(chunk.text.strip() or chunk.calls)
        except (TimeoutError, UpstreamError):
            pass  # the response was complete before
        self._stream.close()
        return tokens

    def _count(self, counts: Counts) -> None:
        old = self._counts
        pairs = {name: getattr(counts, name) for name in ("prompt", "completion", "cached", "drafted", "accepted")}
        known = {name: value for name, value in pairs.items() if value is not None}
        self._counts = replace(old, **known)
        self.prompt_tokens = self.prompt_tokens or self._counts.prompt or 0  # once told, it stays
        self.cached_tokens = min(self._counts.cached or 0, self.prompt_tokens)
        if counts.prompt_ms is not None:
            self.prompt_ms = counts.prompt_ms

    def _delta(self, tokens: Sequence[Token], milliseconds: float = 0.0, found: Finding | None = None) -> Delta:
        position = len(self._tokens)
        if tokens and position == self._kept and not self.prompt_ms:
            self.prompt_ms = (self._stepped - self._began) * 1e3
        self._tokens += tokens
        context = self.prompt_tokens + len(self._tokens)
        step = StepStats(self._server.mode, "none", 0, 0, milliseconds, context)
        return Delta(position, tuple(tokens), step, found=found)

    def _take(self) -> Delta:
        self._backend.stepped()
        return self._ready.popleft()

    def _fail(self, told: str, kind: str, error: BackendError | None = None) -> None:
        """Once as a finding, behind what was said before; from then on as an error."""
        self._leave()
        self._error = error or LaneFailed(told)
        self._gathered += self._reader.finish()
        self._hand_out()
        found = failure(told, self._server.name, kind, len(self._tokens))
        self._ready.append(self._delta((), found=found))
