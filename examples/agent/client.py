"""One request to an OpenAI-compatible chat server, read as a stream.

Must not: retry, run tools or keep a history.
Invariant: `respond` returns only a response that the server finished; anything else raises ChatError.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from examples.agent.sse import SSEReader
from examples.agent.transcript import Call, Turn

OnText = Callable[[str], None]


class ChatError(Exception):
    """The server refused, failed in mid-stream or went away; the message says which."""


class ChatClient:
    """A connection to one server. base_url ends in `/v1`; use as an async context manager."""

    def __init__(self, base_url: str, model: str, api_key: str = "", session: str = "") -> None:
        self.base_url, self.model = base_url.rstrip("/"), model
        # Asks specguard for token ids, decode mode and incidents with the last chunk; others ignore it.
        self._headers = {"x-specguard-transcript": "1", "Accept": "text/event-stream"}
        if session:
            self._headers["x-session-id"] = session
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def __aenter__(self) -> ChatClient:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=300)
        self._http = aiohttp.ClientSession(timeout=timeout, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def first_model(self) -> str:
        """Name of the first model that the server lists."""
        try:
            async with self._http.get(f"{self.base_url}/models") as response:
                await _raise_for_status(response)
                return str((await response.json())["data"][0]["id"])
        except (aiohttp.ClientError, TimeoutError, LookupError, ValueError) as error:
            raise ChatError(f"cannot list the models of {self.base_url}: {error}") from error

    async def respond(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        on_text: OnText,
        **sampling: float | int,
    ) -> Turn:
        """Sends the conversation and reads the answer; `on_text` gets each piece of text as it arrives."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "tools": list(tools),
            "stream": True,
            "stream_options": {"include_usage": True},
            **sampling,
        }
        started = time.monotonic()
        answer = Answer(on_text, started)
        try:
            async with self._http.post(f"{self.base_url}/chat/completions", json=body) as response:
                await _raise_for_status(response)
                reader = SSEReader()
                async for chunk in response.content.iter_any():
                    for payload in reader.feed(chunk):
                        answer.take(payload)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise ChatError(f"the connection to {self.base_url} failed: {reason}") from error
        answer.turn.seconds = time.monotonic() - started
        return answer.finish()


class Answer:
    """Puts the chunks of one streamed response together."""

    def __init__(self, on_text: OnText, started: float) -> None:
        self.turn = Turn()
        self._on_text, self._started = on_text, started
        self._calls: dict[int, dict[str, str]] = {}

    def take(self, payload: str) -> None:
        if payload == "[DONE]":
            return
        try:
            chunk = json.loads(payload)
        except ValueError as error:
            raise ChatError("the server sent a chunk that is not JSON") from error
        if "error" in chunk:
            raise ChatError(f"the server gave up: {_message(chunk)}")
        turn = self.turn
        turn.usage = chunk.get("usage") or turn.usage
        turn.timings = chunk.get("timings") or turn.timings
        extension = chunk.get("specguard") or {}
        turn.token_ids = extension.get("token_ids", turn.token_ids)
        turn.mode = extension.get("mode", turn.mode)
        turn.incidents = extension.get("incidents", turn.incidents)
        for choice in chunk.get("choices", ()):
            self._add(choice.get("delta") or {})
            turn.finish_reason = choice.get("finish_reason") or turn.finish_reason

    def _add(self, delta: Mapping[str, Any]) -> None:
        if not self.turn.first_token_s and delta.keys() - {"role"}:
            self.turn.first_token_s = time.monotonic() - self._started
        if text := delta.get("content"):
            self.turn.text += text
            self._on_text(text)
        self.turn.thinking += delta.get("reasoning_content") or delta.get("reasoning") or ""
        for piece in delta.get("tool_calls") or ():
            call = self._calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
            function = piece.get("function") or {}
            call["id"] = piece.get("id") or call["id"]
            call["name"] = function.get("name") or call["name"]
            call["arguments"] += function.get("arguments") or ""

    def finish(self) -> Turn:
        if not self.turn.finish_reason:
            raise ChatError("the stream ended without a finish reason, so the answer may be cut")
        self.turn.calls = [Call(**self._calls[index]) for index in sorted(self._calls)]
        return self.turn


async def _raise_for_status(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        message = _message(json.loads(text))
    except ValueError:
        message = text[:200] or response.reason or "no explanation"
    raise ChatError(f"the server answered {response.status}: {message}")


def _message(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)
