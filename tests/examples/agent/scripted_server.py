"""An OpenAI-compatible server that plays written answers and keeps what it was asked.

Must not: judge requests; tests look at `requests`.
Invariant: the nth request gets the nth answer, as the chunks were written.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


def text_chunks(*pieces: str) -> list[Any]:
    return [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]


def call_chunks(index: int, name: str, arguments: str, pieces: int = 3) -> list[Any]:
    """A call whose arguments come in pieces; id and name stand in the first."""
    step = max(1, -(-len(arguments) // pieces))
    cuts = [arguments[i : i + step] for i in range(0, len(arguments), step)] or [""]
    chunks = []
    for number, cut in enumerate(cuts):
        fragment: dict[str, Any] = {"index": index, "function": {"arguments": cut}}
        if not number:
            fragment |= {"id": f"call_{index}", "type": "function"}
            fragment["function"]["name"] = name
        chunks.append({"choices": [{"index": 0, "delta": {"tool_calls": [fragment]}}]})
    return chunks


def end_chunks(reason: str, **extension: Any) -> list[Any]:
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}, **extension}
    return [finish, usage, "[DONE]"]


class ScriptedServer:
    """Each answer is a list of chunks (objects or payload text), or (status, body) for a refusal."""

    def __init__(self, *answers: Any) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answers = list(answers)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        """Yields the base URL."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "scripted"}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        answer = self._answers[len(self.requests) - 1]
        if isinstance(answer, tuple):
            return web.json_response(answer[1], status=answer[0])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in answer:
            payload = chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False)
            await response.write(f"data: {payload}\n\n".encode())
            await asyncio.sleep(0)
        return response
