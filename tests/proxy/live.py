"""A real server on a port of its own over a scripted backend, and clients for it.

Must not: reach into a handler; tests see what a client sees, and the traces in backend, log and store.
Invariant: when the context ends nothing is left behind: no task, no socket, no file.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from proxy.configuration.config import Config
from proxy.incidents import IncidentStore, Record
from proxy.server.app import SERVICE, create_app, create_runner
from proxy.server.service import Service
from tests.proxy.scripted import Script, ScriptedBackend

CHAT, MESSAGES, COUNT = "/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"
RESPONSES = "/v1/responses"
STRING = {"type": "string"}
LS_SCHEMA = {
    "type": "object",
    "properties": {"path": STRING},
    "required": ["path"],
    "additionalProperties": False,
}
USER: list[Any] = [{"role": "user", "content": "go"}]
OPENAI_TOOLS: list[Any] = [{"type": "function", "function": {"name": "ls", "parameters": LS_SCHEMA}}]
RESPONSES_TOOLS: list[Any] = [{"type": "function", "name": "ls", "parameters": LS_SCHEMA, "strict": False}]
ANTHROPIC_TOOLS: list[Any] = [{"name": "ls", "input_schema": LS_SCHEMA}]
VARIABLE = re.compile(rb'(chatcmpl-|call_|msg_|toolu_|resp_|rs_|fc_|ctc_)(?:[0-9a-f]{24}){1,2}|"created(?:_at)?":\d+')


def body_for(path: str, **fields: Any) -> dict[str, Any]:
    """The smallest body that a route accepts, changed by `fields` (None takes a field away)."""
    body: dict[str, Any] = {"model": "scripted", "input" if path == RESPONSES else "messages": USER}
    if path == MESSAGES:
        body["max_tokens"] = 1000
    return {key: value for key, value in (body | fields).items() if value is not None}


def stable(frames: bytes) -> list[str]:
    """Frames as lines of text, random ids and the time blanked out."""
    text = VARIABLE.sub(lambda m: (m[1] or b'"created":') + b"0", frames).decode()
    return [line for line in text.split("\n") if line]


def payloads(frames: bytes) -> list[Any]:
    """What the `data:` lines hold; `[DONE]` as text."""
    lines = [line.removeprefix("data: ") for line in frames.decode().split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response, read to its end. broken: the connection ended before the body did."""

    status: int
    headers: dict[str, str]
    body: bytes
    broken: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Live:
    """A running server and a plain HTTP client for it."""

    base: str
    backend: ScriptedBackend
    service: Service
    http: aiohttp.ClientSession

    def openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.base}/v1", api_key="local", max_retries=0)

    def anthropic(self) -> AsyncAnthropic:
        return AsyncAnthropic(base_url=self.base, api_key="local", max_retries=0)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """body: bytes as they stand, anything else as JSON. Underscores in header names become dashes."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, self.base + path, data=data, headers=names) as response:
            chunks = bytearray()
            broken = False
            try:
                async for chunk in response.content.iter_any():
                    chunks += chunk
            except aiohttp.ClientError:
                broken = True
            return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, bytes(chunks), broken)

    async def post(self, path: str, **fields: Any) -> Answer:
        return await self.ask("POST", path, body_for(path, **fields))

    async def incidents(self) -> Sequence[Record]:
        await asyncio.to_thread(self.service.incidents.flush)
        return await asyncio.to_thread(self.service.incidents.list)

    async def idle(self) -> None:
        """Until no response is in the making; fails instead of waiting for ever."""
        async with asyncio.timeout(60):
            await self.service.idle.wait()


class Gate:
    """A pace for the scripted backend: every step waits until the test lets it through."""

    def __init__(self, steps: int = 0) -> None:
        self._steps = asyncio.Semaphore(steps)
        self._blocked = asyncio.Event()

    async def __call__(self) -> None:
        if self._steps.locked():
            self._blocked.set()
        await self._steps.acquire()

    async def used_up(self) -> None:
        """Until a step waits in vain."""
        async with asyncio.timeout(60):
            await self._blocked.wait()

    def let(self, steps: int) -> None:
        for _ in range(steps):
            self._steps.release()


@asynccontextmanager
async def serving(
    backend: ScriptedBackend | Script | str,
    wait_until_ready: bool = True,
    folder: Path | None = None,
    outermost: Any = None,
    **sections: dict[str, Any],
) -> AsyncIterator[Live]:
    """folder: of the stores, None = one that is gone afterwards. outermost: an aiohttp middleware that sees every
    request first. sections: configuration: `server={"keys": ("k",)}`."""
    if isinstance(backend, Script | str):
        backend = ScriptedBackend(backend)
    with TemporaryDirectory() as temporary:
        store = IncidentStore((folder or Path(temporary)) / "incidents.sqlite")
        app = create_app(Config.model_validate(sections), backend, store)
        if outermost is not None:
            app.middlewares.insert(0, outermost)
        runner = create_runner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            if wait_until_ready:
                await app[SERVICE].settled.wait()
            async with aiohttp.ClientSession() as http:
                yield Live(f"http://127.0.0.1:{runner.addresses[0][1]}", backend, app[SERVICE], http)
        finally:
            await runner.cleanup()
