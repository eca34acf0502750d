"""Encodes events as OpenAI chat completions: chunks of a stream, or one body.

Must not: send `[DONE]` after anything but a true end.
Invariant: the role chunk comes first, every call is sent whole in one delta, the finish reason comes last but usage.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from proxy import errors
from proxy.conversation import ChatRequest
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Logprob, Started, TextDelta, ThinkingDelta, ToolCall, Usage
from proxy.sse import DONE, frame
from proxy.wire.extension import extension

REASONS = {"stop": "stop", "stop_sequence": "stop", "length": "length", "tool_calls": "tool_calls"}


class OpenAIChatEncoder:
    """One response. transcript: add token ids, decode mode and incidents as the extension `specguard`."""

    wire: errors.Wire = "openai"

    def __init__(self, request: ChatRequest, model: str, transcript: bool = False) -> None:
        self._request, self._model, self._transcript = request, model, transcript
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._opened = False
        self._text: list[str] = []
        self._logprobs: list[Logprob] = []
        self._thinking: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._finished: Finished | None = None

    def encode(self, event: Event) -> bytes:
        """Frames of one event."""
        if isinstance(event, Started):
            return self._opening()
        if isinstance(event, ThinkingDelta):
            return self._chunk({"reasoning_content": event.text})
        if isinstance(event, TextDelta):
            return self._chunk({"content": event.text}, event.logprobs)
        if isinstance(event, ToolCall):
            return self._chunk({"tool_calls": [{"index": event.index, **_call(event)}]})
        if isinstance(event, Failed):
            return self.error(RequestError(event.kind, event.message))
        last = self._envelope("chat.completion.chunk", [_choice({}, REASONS[event.reason])])
        last |= extension(event, self._request, self._transcript)
        frames = frame(last)
        if self._request.include_usage:
            frames += frame(self._envelope("chat.completion.chunk", []) | {"usage": _usage(event.usage)})
        return frames + DONE

    def keep_alive(self) -> bytes:
        """A chunk with an empty delta: some clients do not count SSE comments as a sign of life."""
        return self._opening() or self._chunk({})

    def error(self, error: RequestError) -> bytes:
        """In-stream error; the server then closes the connection without `[DONE]`."""
        return frame(errors.body(self.wire, error, self._request.request_id))

    def collect(self, event: Event) -> None:
        """Gathers an event for `body`."""
        if isinstance(event, ThinkingDelta):
            self._thinking.append(event.text)
        elif isinstance(event, TextDelta):
            self._text.append(event.text)
            self._logprobs += event.logprobs
        elif isinstance(event, ToolCall):
            self._calls.append(_call(event))
        elif isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, Failed):
            raise RequestError(event.kind, event.message)

    def body(self) -> dict[str, Any]:
        """The whole response; call after the last event."""
        end = self._finished
        if end is None:
            raise RequestError("internal", "the response ended without a result")
        text = "".join(self._text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text or (None if self._calls else ""),
            "refusal": None,
        }
        if self._thinking:
            message["reasoning_content"] = "".join(self._thinking)
        if self._calls:
            message["tool_calls"] = self._calls
        asked = self._request.logprobs is not None
        logprobs = _logprobs(self._logprobs) if asked else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": REASONS[end.reason]}
        body = self._envelope("chat.completion", [choice]) | {"usage": _usage(end.usage)}
        return body | extension(end, self._request, self._transcript)

    def _opening(self) -> bytes:
        """The role chunk, which comes first, be it as a keep-alive during prefill."""
        if self._opened:
            return b""
        self._opened = True
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(self, delta: dict[str, Any], logprobs: Sequence[Logprob] = ()) -> bytes:
        choice = _choice(delta, None)
        if logprobs:
            choice["logprobs"] = _logprobs(logprobs)
        return frame(self._envelope("chat.completion.chunk", [choice]))

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }


def _choice(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _logprobs(entries: Sequence[Logprob]) -> dict[str, Any]:
    """Of tokens of the content; those of tool calls are not reported."""
    content = [
        _entry(entry.data, entry.logprob) | {"top_logprobs": [_entry(*other) for other in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _entry(data: bytes, logprob: float) -> dict[str, Any]:
    """A token as text, and as bytes for where it is part of a character."""
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def _call(event: ToolCall) -> dict[str, Any]:
    function = {"name": event.name, "arguments": event.arguments}
    return {"id": f"call_{event.id}", "type": "function", "function": function}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
