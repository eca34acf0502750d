"""A backend that takes its text from the scripted source by HTTP, so that this server can be measured as one hop more.

Must not: be used to serve anybody: it knows no tokens, cannot rewind and enforces nothing. It is no lane to a server.
Invariant: one delta per event of the source, handed on when it comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson

from policies.modes import DecodeMode
from proxy.backends.base import (
    Capabilities,
    Delta,
    ModelInfo,
    Rebuild,
    RewindReport,
    StepStats,
    Token,
)
from proxy.backends.errors import BackendError, Trouble
from proxy.backends.prompt import as_function, as_template
from proxy.conversation import ChatRequest, Message, Tool
from proxy.sse import EventReader

CHARS_PER_TOKEN = 4


class RelayBackend:
    """upstream: base URL of the source."""

    def __init__(self, upstream: str) -> None:
        self.info = ModelInfo("source", "none", 1 << 20)
        self.capabilities = Capabilities(False, False, False, False, "unknown", ("plain",))
        self.trouble: Trouble | None = None
        self._url = f"{upstream}/v1/chat/completions"
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)
        )

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> RelayGeneration:
        assert self._http is not None
        body: dict[str, Any] = {
            "model": "source",
            "stream": True,
            "messages": [_message(message) for message in request.messages],
            "tools": [as_function(tool) for tool in request.tools],
        }
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        try:
            response = await self._http.post(self._url, data=orjson.dumps(body), headers=headers)
        except aiohttp.ClientError as error:
            raise BackendError(f"the source cannot be reached ({type(error).__name__})") from error
        if response.status != 200:
            response.close()
            raise BackendError(f"the source answers with status {response.status}")
        return RelayGeneration(response, mode, await self.count_tokens(request.messages, request.tools))

    async def count_tokens(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> int:
        """A guess; nothing is tokenised here."""
        return sum(len(message.text) for message in messages) // CHARS_PER_TOKEN + 64 * len(tools)


class RelayGeneration:
    """One response of the source."""

    def __init__(self, response: aiohttp.ClientResponse, mode: DecodeMode, prompt_tokens: int) -> None:
        self.prompt_ids: tuple[int, ...] = ()
        self.prompt_tokens, self.cached_tokens, self.prompt_ms, self.seed = prompt_tokens, 0, 0.0, 0
        self._response, self._mode = response, mode
        self._reader = EventReader()
        self._waiting: deque[str] = deque()
        self._position = 0
        self._ended = False

    async def next(self, waits: Callable[[Delta], bool] | None = None) -> Delta | None:
        if self._ended:
            return None
        text = await self._word()
        step = StepStats(self._mode, "none", 0, 0, 0.0, self.prompt_tokens + self._position)
        if text is None:
            self._ended = True
            return Delta(self._position, (), step, "stop")
        delta = Delta(self._position, (Token(self._position, text),), step)
        self._position += 1
        return delta

    async def rewind(self, position: int, mode: DecodeMode, rebuild: Rebuild = "none") -> RewindReport:
        raise BackendError("what a source has said cannot be taken back")

    async def close(self) -> None:
        """A connection that was read to its end is used again; else every request would open one."""
        if self._ended:
            await self._response.content.read()
        self._response.close()

    async def _word(self) -> str | None:
        """None at the end."""
        while not self._waiting:
            data = await self._response.content.readany()
            if not data:
                raise BackendError("the source broke off")
            self._waiting.extend(event.data for event in self._reader.feed(data))
        event = self._waiting.popleft()
        if event == "[DONE]":
            return None
        delta = orjson.loads(event)["choices"][0]["delta"]
        return str(delta["content"]) if "content" in delta else await self._word()


def _message(message: Message) -> dict[str, Any]:
    """With arguments as text, as the API has them."""
    told = as_template(message)
    for call in told.get("tool_calls", ()):
        call["function"]["arguments"] = orjson.dumps(call["function"]["arguments"]).decode()
    return told
