"""The rules that every stream of chat completions obeys, as a checker for the tests.

Must not: know what the model said.
Invariant: passes exactly the streams that begin with one role, hold whole calls with rising indices, and end with one
reason, the usage if asked for, and `[DONE]`; or with an error and nothing after it; or that were cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.proxy.wire.frames import DONE, Frame, arguments

SAME = ("id", "object", "created", "model")


class ChatOrder:
    """Takes frame after frame. ended: nothing may follow. complete: it ended as a success."""

    def __init__(self) -> None:
        self.ended = self.complete = False
        self._head: Any = None
        self._reason: str | None = None
        self._usage = False
        self._calls: list[dict[str, str]] = []

    def take(self, frame: Frame) -> None:
        """Raises AssertionError."""
        assert not self.ended, f"after the end: {frame}"
        assert frame.name == "", "frames of this API have no name"
        if frame.data == DONE:
            assert self._reason is not None, "[DONE] without a finish reason"
            self.ended = self.complete = True
        elif "error" in frame.data:
            assert self._reason is None, "an error after the finish reason"
            assert set(frame.data) == {"error"}
            assert set(frame.data["error"]) == {"message", "type", "param", "code"}
            self.ended = True
        else:
            self._chunk(frame.data)

    def _chunk(self, chunk: dict[str, Any]) -> None:
        assert not self._usage, "a chunk after the usage"
        head = {name: chunk[name] for name in SAME}
        assert head["object"] == "chat.completion.chunk"
        assert self._head in (None, head), "chunks of two responses"
        first, self._head = self._head is None, head
        if not chunk["choices"]:
            assert self._reason is not None, "usage before the finish reason"
            usage = chunk["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            self._usage = True
            return
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        assert choice["index"] == 0
        assert self._reason is None, "a delta after the finish reason"
        assert ("role" in delta) == first, "the role comes with the first chunk, and only there"
        assert choice["logprobs"] is None or delta.get("content"), "log-probabilities without text"
        for fragment in delta.get("tool_calls", ()):
            self._fragment(fragment)
        if choice["finish_reason"] is not None:
            self._finish(choice["finish_reason"], chunk)

    def _fragment(self, fragment: dict[str, Any]) -> None:
        index, function = fragment["index"], fragment["function"]
        if index == len(self._calls):
            assert fragment["type"] == "function"
            assert fragment["id"] not in [call["id"] for call in self._calls], "an id comes twice"
            self._calls.append({"id": fragment["id"], "name": function["name"], "arguments": ""})
        else:
            assert index == len(self._calls) - 1, "calls are not one after the other"
            assert "id" not in fragment, "an id comes with the first fragment only"
        self._calls[index]["arguments"] += function.get("arguments", "")

    def _finish(self, reason: str, chunk: dict[str, Any]) -> None:
        assert reason in ("stop", "length", "tool_calls")
        assert (reason == "tool_calls") == bool(self._calls), "the reason and the calls do not agree"
        assert chunk["timings"]["draft_n_accepted"] <= chunk["timings"]["draft_n"]
        for call in self._calls:
            assert call["name"]
            arguments(call["arguments"])
        self._reason = reason


def check(frames: Sequence[Frame]) -> ChatOrder:
    """Raises AssertionError."""
    order = ChatOrder()
    for frame in frames:
        order.take(frame)
    return order
