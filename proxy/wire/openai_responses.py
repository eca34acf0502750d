"""Encodes events as OpenAI responses: typed SSE events with sequence numbers, or one body.

Must not: send `response.completed` after anything but a true end.
Invariant: items are strictly sequential: each is added, filled, done; then the next; a call is sent whole in one delta.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from proxy import errors
from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Logprob, Started, TextDelta, ThinkingDelta, ToolCall, Usage
from proxy.sse import frame
from proxy.wire.extension import extension
from proxy.wire.openai_responses_parse import ParsedResponse
from proxy.wire.responses_input import read_input, seal
from proxy.wire.responses_tools import CUSTOM_INPUT

Keep = Callable[[str, Sequence[Message]], None]

_TEXT, _REASONING = "message", "reasoning"
_CODES = {"context_too_long": "context_length_exceeded", "overloaded": "server_is_overloaded"}


class OpenAIResponsesEncoder:
    """One response. transcript: add token ids, decode mode and incidents as the extension `specguard`.

    keep: given the id and the conversation when the response is complete and the client wants it stored.
    """

    wire: errors.Wire = "openai"

    def __init__(
        self, request: ChatRequest, model: str, transcript: bool, parsed: ParsedResponse, keep: Keep = lambda *_: None
    ) -> None:
        self._request, self._model, self._transcript = request, model, transcript
        self._parsed, self._keep = parsed, keep
        self._id = f"resp_{secrets.token_hex(24)}"
        self._created = int(time.time())
        self._sequence = -1
        self._opened = False
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._logprobs: list[Logprob] = []
        self._finished: Finished | None = None

    def encode(self, event: Event) -> bytes:
        """Frames of one event."""
        if isinstance(event, Started):
            return self._opening()
        if isinstance(event, ThinkingDelta | TextDelta):
            return self._fill(event)
        if isinstance(event, ToolCall):
            return self._close() + self._call(event)
        if isinstance(event, Failed):
            return self.error(RequestError(event.kind, event.message))
        self._finished = event
        frames = self._close("incomplete" if event.reason == "length" else "completed")
        if self._parsed.store:
            self._keep(self._id, read_input(self._output, self._parsed.history))
        kind = "response.incomplete" if event.reason == "length" else "response.completed"
        return frames + self._event(kind, response=self._response(kind.removeprefix("response."), event))

    def keep_alive(self) -> bytes:
        """An event of its own: some clients do not count SSE comments as a sign of life."""
        return self._opening() or self._event("keepalive")

    def error(self, error: RequestError) -> bytes:
        """In-stream error; the server then closes the connection. A bare `error` event would not be heard by Codex."""
        response = self._response("failed", None)
        response["error"] = {"code": _CODES.get(error.kind, "server_error"), "message": error.message}
        return self._opening() + self._event("response.failed", response=response)

    def collect(self, event: Event) -> None:
        """Gathers an event for `body`."""
        if isinstance(event, Failed):
            raise RequestError(event.kind, event.message)
        self.encode(event)

    def body(self) -> dict[str, Any]:
        """The whole response; call after the last event."""
        end = self._finished
        if end is None:
            raise RequestError("internal", "the response ended without a result")
        return self._response("incomplete" if end.reason == "length" else "completed", end)

    def _opening(self) -> bytes:
        """What comes first, be it with a keep-alive during prefill."""
        if self._opened:
            return b""
        self._opened = True
        response = self._response("in_progress", None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return frame({"type": kind, "sequence_number": self._sequence, **fields}, kind)

    # Items

    def _fill(self, event: ThinkingDelta | TextDelta) -> bytes:
        kind = _REASONING if isinstance(event, ThinkingDelta) else _TEXT
        frames = self._to(kind)
        assert self._open is not None
        self._open["content"][0]["text"] += event.text
        if isinstance(event, ThinkingDelta):
            return frames + self._part("response.reasoning_text.delta", delta=event.text)
        self._logprobs += event.logprobs
        logprobs = [_logprob(each) for each in event.logprobs]
        return frames + self._part("response.output_text.delta", delta=event.text, logprobs=logprobs)

    def _to(self, kind: str) -> bytes:
        """Makes sure that the open item is of `kind`."""
        if self._open is not None and self._open["type"] == kind:
            return b""
        frames = self._close()
        if kind == _REASONING:
            item: dict[str, Any] = {"id": _id("rs"), "type": kind, "summary": []}
            self._open = item | {"content": [{"type": "reasoning_text", "text": ""}]}
            return frames + self._event("response.output_item.added", output_index=self._index, item=item)
        item = {"id": _id("msg"), "type": kind, "status": "in_progress", "role": "assistant", "content": []}
        self._open = item | {"content": [self._text_part("")]}
        self._logprobs = []
        frames += self._event("response.output_item.added", output_index=self._index, item=item)
        return frames + self._part("response.content_part.added", part=self._text_part(""))

    def _close(self, status: str = "completed") -> bytes:
        """Ends the open item."""
        item, self._open = self._open, None
        if item is None:
            return b""
        text = item["content"][0]["text"]
        self._open = item  # `_part` names it
        if item["type"] == _REASONING:
            frames = self._part("response.reasoning_text.done", text=text)
            if self._parsed.sealed:
                item["encrypted_content"] = seal(text)
        else:
            part = item["content"][0] = self._text_part(text)
            logprobs = [_logprob(each) for each in self._logprobs]
            frames = self._part("response.output_text.done", text=text, logprobs=logprobs)
            frames += self._part("response.content_part.done", part=part)
            item["status"] = status
        frames += self._event("response.output_item.done", output_index=self._index, item=item)
        self._open = None
        self._output.append(item)
        return frames

    def _text_part(self, text: str) -> dict[str, Any]:
        logprobs = [_logprob(each, True) for each in self._logprobs] if text else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def _part(self, kind: str, **fields: Any) -> bytes:
        """An event about the only part of the open item."""
        assert self._open is not None
        return self._event(kind, item_id=self._open["id"], output_index=self._index, content_index=0, **fields)

    def _call(self, event: ToolCall) -> bytes:
        origin = self._parsed.names.of(event.name)
        name = {"name": origin.name, **({"namespace": origin.namespace} if origin.namespace else {})}
        if origin.custom:
            said, field, prefix = _custom_input(event.arguments), "input", "custom_tool_call"
            item: dict[str, Any] = {"id": _id("ctc"), "type": prefix, "status": "in_progress"}
            kinds = ("response.custom_tool_call_input.delta", "response.custom_tool_call_input.done")
        else:
            said, field, prefix = event.arguments, "arguments", "function_call"
            item = {"id": _id("fc"), "type": prefix, "status": "in_progress"}
            kinds = ("response.function_call_arguments.delta", "response.function_call_arguments.done")
        item |= {"call_id": f"call_{event.id}", **name, field: ""}
        at = {"item_id": item["id"], "output_index": self._index}
        frames = self._event("response.output_item.added", output_index=self._index, item=item)
        frames += self._event(kinds[0], **at, delta=said)
        done = {field: said} if origin.custom else {"name": origin.name, field: said}
        frames += self._event(kinds[1], **at, **done)
        item = item | {"status": "completed", field: said}
        frames += self._event("response.output_item.done", output_index=self._index, item=item)
        self._output.append(item)
        return frames

    @property
    def _index(self) -> int:
        """Of the open item, or the next one."""
        return len(self._output)

    # The response

    def _response(self, status: str, end: Finished | None) -> dict[str, Any]:
        echo = self._parsed.echo
        request = self._request
        response: dict[str, Any] = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": request.sampling.top_p,
            "truncation": "disabled",
            "parallel_tool_calls": True,
            "store": self._parsed.store,
            **echo,
            "temperature": request.sampling.temperature,
            "model": self._model,
            "output": list(self._output),
            "usage": None if end is None else _usage(end.usage),
        }
        if end is not None:
            response |= extension(end, request, self._transcript)
        return response


def _custom_input(arguments: str) -> str:
    """What the model wrote; all of it where the guard only observes and lets through what has no such text."""
    found = orjson.loads(arguments).get(CUSTOM_INPUT)
    return found if isinstance(found, str) else arguments


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


def _logprob(entry: Logprob, with_bytes: bool = False) -> dict[str, Any]:
    """A token as text, and in whole parts as bytes for where it is part of a character."""

    def one(data: bytes, logprob: float) -> dict[str, Any]:
        exact = {"bytes": list(data)} if with_bytes else {}
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, **exact}

    return one(entry.data, entry.logprob) | {"top_logprobs": [one(*other) for other in entry.top]}


def _usage(usage: Usage) -> Mapping[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
