"""A scripted vLLM, SGLang, llama.cpp or plain OpenAI-compatible server on a port of loopback, sound or with defects.

Must not: know specguard; whoever asks is answered as the real server would answer.
Invariant: every request is recorded, with what became of its connection: `finished`, or `left` by the client before
the response had ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.upstreams import answers, pages, teaching
from tests.upstreams.dialects import DIALECTS, Dialect, Kind
from tests.upstreams.lanes import SEEN, Counters, Lane, Seen, no_pause


class Upstream:
    """One server. lanes: by model name. dev: tells its configuration (vLLM's development mode). metrics, new: whether
    it has `/metrics`, and knows `return_token_ids`. reports_drafts: vLLM's statistics of each request. caches: the
    prefix cache is on. pace: awaited before every frame of a stream. keys: API keys, any of which opens it.
    """

    def __init__(
        self,
        kind: Kind,
        lanes: Mapping[str, Lane] | None = None,
        *,
        dev: bool = True,
        metrics: bool = True,
        new: bool = True,
        reports_drafts: bool = False,
        caches: bool = True,
        pace: Callable[[], Awaitable[None]] = no_pause,
        keys: Sequence[str] = (),
        version: str = "",
    ) -> None:
        self.kind: Kind = kind
        self.dialect: Dialect = DIALECTS[kind]
        self.lanes = dict(lanes or {"model": Lane()})
        self.dev, self.has_metrics, self.new, self.caches = dev, metrics, new, caches
        self.reports_drafts, self.pace, self.keys = reports_drafts, pace, tuple(keys)
        self.version = version or {"vllm": "0.33.0", "sglang": "0.5.23"}.get(kind, "")
        self.seen: list[Seen] = []
        self.counters = {name: Counters() for name in self.lanes}
        self.prefixes: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        self.healthy = True
        self.base = ""

    @property
    def chats(self) -> list[Seen]:
        """The requests for responses, in order."""
        return [seen for seen in self.seen if seen.path == "/v1/chat/completions"]

    def of(self, lane: str) -> list[Seen]:
        return [seen for seen in self.chats if seen.lane == lane]

    def lane_of(self, model: object) -> str | None:
        """The lane that a model name leads to. llama.cpp and SGLang with one model do not look at the name."""
        if model in self.lanes:
            return str(model)
        alone = len(self.lanes) == 1 and self.kind in ("llamacpp", "sglang")
        return next(iter(self.lanes)) if alone or (model in (None, "") and len(self.lanes) == 1) else None

    def cached(self, lane: str, salt: str, prompt: tuple[int, ...], reads: bool = True) -> int:
        """Tokens of the prompt that are in the prefix cache, where it is from now on."""
        if not self.caches:
            return 0
        kept = self.prefixes.setdefault((lane, salt), [])
        block = 16 if self.kind == "vllm" else 1
        most = max((_shared(prompt, other) for other in kept), default=0) if reads else 0
        kept.append(prompt)
        return min(most, len(prompt) - 1) // block * block

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Upstream]:
        app = web.Application(middlewares=[self._note], client_max_size=64 << 20)
        pages.add_routes(app, self)
        answers.add_routes(app, self)
        teaching.add_routes(app, self)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body: Any = None
        if request.can_read_body:
            try:
                body = await request.json()
            except ValueError:
                body = await request.text()
        model = body.get("model") if isinstance(body, dict) else request.query.get("model")
        seen = Seen(
            request.method,
            request.path,
            request.query_string,
            {name.lower(): value for name, value in request.headers.items()},
            body,
            self.lane_of(model) or "",
        )
        self.seen.append(seen)
        request[SEEN] = seen
        try:
            if self.keys and request.path.startswith("/v1") and not self._opens(request):
                return web.json_response(self.dialect.error(401, "Unauthorized"), status=401)
            response: web.StreamResponse = await handler(request)
            seen.settle("finished")
            return response
        except (asyncio.CancelledError, ConnectionError):
            seen.settle("left")
            raise
        finally:
            seen.settle("broken")

    def _opens(self, request: web.Request) -> bool:
        return request.headers.get("Authorization", "").removeprefix("Bearer ") in self.keys


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
