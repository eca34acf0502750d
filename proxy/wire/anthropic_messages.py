"""Encodes events as Anthropic messages: typed SSE events, or one body.

Must not: send `message_stop` after anything but a true end.
Invariant: content blocks are strictly sequential: one is closed before the next is opened, indices count up.
"""

from __future__ import annotations

import secrets
from typing import Any

import orjson

from proxy import errors
from proxy.conversation import ChatRequest
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Started, TextDelta, ThinkingDelta, ToolCall, Usage
from proxy.sse import frame
from proxy.wire.extension import extension

REASONS = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
SIGNATURE = "specguard"
"""Clients echo a thinking block's signature unchanged; any non-empty text will do for a local model."""


class AnthropicEncoder:
    """One response. transcript: add token ids, decode mode and incidents as the extension `specguard`."""

    wire: errors.Wire = "anthropic"

    def __init__(self, request: ChatRequest, model: str, transcript: bool = False) -> None:
        self._request, self._model, self._transcript = request, model, transcript
        self._id = f"msg_{secrets.token_hex(12)}"
        self._open: str | None = None
        self._index = -1
        self._content: list[dict[str, Any]] = []
        self._finished: Finished | None = None

    def encode(self, event: Event) -> bytes:
        """Frames of one event."""
        if isinstance(event, Started):
            usage = Usage(prompt_tokens=event.prompt_tokens, cached_tokens=event.cached_tokens)
            message = self._message([], None, None, usage)
            return _event("message_start", message=message)
        if isinstance(event, ThinkingDelta):
            return self._to("thinking", {"thinking": "", "signature": ""}) + self._delta(
                "thinking_delta", thinking=event.text
            )
        if isinstance(event, TextDelta):
            return self._to("text", {"text": ""}) + self._delta("text_delta", text=event.text)
        if isinstance(event, ToolCall):
            head = self._to("tool_use", {"id": f"toolu_{event.id}", "name": event.name, "input": {}})
            return head + self._delta("input_json_delta", partial_json=event.arguments) + self._close()
        if isinstance(event, Failed):
            return self.error(RequestError(event.kind, event.message))
        stop = {"stop_reason": REASONS[event.reason], "stop_sequence": event.stop_sequence}
        extra = extension(event, self._request, self._transcript)
        return (
            self._close()
            + _event("message_delta", delta=stop, usage=_usage(event.usage), **extra)
            + _event("message_stop")
        )

    def keep_alive(self) -> bytes:
        return _event("ping")

    def error(self, error: RequestError) -> bytes:
        """In-stream error; the server then closes the connection without `message_stop`."""
        return frame(errors.body(self.wire, error, self._request.request_id), "error")

    def collect(self, event: Event) -> None:
        """Gathers an event for `body`."""
        last: dict[str, Any] = self._content[-1] if self._content else {"type": None}
        if isinstance(event, ThinkingDelta):
            if last["type"] == "thinking":
                last["thinking"] += event.text
            else:
                self._content.append({"type": "thinking", "thinking": event.text, "signature": SIGNATURE})
        elif isinstance(event, TextDelta):
            if last["type"] == "text":
                last["text"] += event.text
            else:
                self._content.append({"type": "text", "text": event.text})
        elif isinstance(event, ToolCall):
            arguments = orjson.loads(event.arguments)
            self._content.append(
                {"type": "tool_use", "id": f"toolu_{event.id}", "name": event.name, "input": arguments}
            )
        elif isinstance(event, Finished):
            self._finished = event
        elif isinstance(event, Failed):
            raise RequestError(event.kind, event.message)

    def body(self) -> dict[str, Any]:
        """The whole response; call after the last event."""
        end = self._finished
        if end is None:
            raise RequestError("internal", "the response ended without a result")
        body = self._message(self._content, REASONS[end.reason], end.stop_sequence, end.usage)
        return body | extension(end, self._request, self._transcript)

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, stop: str | None, usage: Usage
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _usage(usage),
        }

    def _to(self, kind: str, block: dict[str, Any]) -> bytes:
        """Makes sure that the open block is of `kind`."""
        if self._open == kind:
            return b""
        closing = self._close()
        self._open, self._index = kind, self._index + 1
        return closing + _event("content_block_start", index=self._index, content_block={"type": kind, **block})

    def _delta(self, kind: str, **fields: str) -> bytes:
        return _event("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._delta("signature_delta", signature=SIGNATURE) if self._open == "thinking" else b""
        self._open = None
        return signed + _event("content_block_stop", index=self._index)


def _event(kind: str, **fields: Any) -> bytes:
    return frame({"type": kind, **fields}, kind)


def _usage(usage: Usage) -> dict[str, int]:
    """input_tokens counts what was not cached, as the API defines it."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
