"""The rules that every stream of Anthropic messages obeys, as a checker for the tests.

Must not: know what the model said.
Invariant: passes exactly the streams with one start, blocks one after the other, one reason and one stop; or with an
error and nothing after it; or that were cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.proxy.wire.frames import Frame, arguments

DELTAS = {
    "text": {"text_delta": "text"},
    "thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
    "tool_use": {"input_json_delta": "partial_json"},
}
EMPTY: dict[str, dict[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
PROMPT = ("input_tokens", "cache_read_input_tokens")
REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use")


class MessagesOrder:
    """Takes frame after frame. ended: nothing may follow. complete: it ended as a success."""

    def __init__(self) -> None:
        self.ended = self.complete = False
        self._usage: Any = None
        self._block: dict[str, Any] | None = None
        self._filled: dict[str, str] = {}
        self._blocks: list[dict[str, Any]] = []
        self._reason: str | None = None

    def take(self, frame: Frame) -> None:
        """Raises AssertionError."""
        assert not self.ended, f"after the end: {frame}"
        assert frame.name == frame.kind, "clients hear a frame by its name"
        kind, data = frame.kind, frame.data
        if kind == "ping":
            return
        if kind == "error":
            assert self._reason is None, "an error after the stop reason"
            assert set(data["error"]) == {"type", "message"}
            assert data["request_id"]
            self.ended = True
            return
        assert (kind == "message_start") == (self._usage is None), "one start, and it comes first"
        assert self._reason is None or kind == "message_stop", f"{kind} after the stop reason"
        getattr(self, f"_{kind}")(data)

    def _message_start(self, data: Any) -> None:
        message = data["message"]
        assert (message["type"], message["role"], message["content"]) == ("message", "assistant", [])
        assert (message["stop_reason"], message["stop_sequence"]) == (None, None)
        self._usage = message["usage"]

    def _content_block_start(self, data: Any) -> None:
        assert self._block is None, "a block is still open"
        assert data["index"] == len(self._blocks), "indices count the blocks"
        block = data["content_block"]
        assert EMPTY[block["type"]].items() <= block.items(), "a block begins empty"
        if block["type"] == "tool_use":
            assert block["name"]
            assert block["id"] not in [each.get("id") for each in self._blocks], "an id comes twice"
        self._block, self._filled = block, {}

    def _content_block_delta(self, data: Any) -> None:
        assert self._block is not None, "a delta outside of blocks"
        assert data["index"] == len(self._blocks), "a delta of another block"
        field = DELTAS[self._block["type"]].get(data["delta"]["type"])
        assert field is not None, "a delta of another kind than its block"
        assert "signature" not in self._filled, "the signature comes last"
        self._filled[field] = self._filled.get(field, "") + data["delta"][field]

    def _content_block_stop(self, data: Any) -> None:
        assert self._block is not None, "no block is open"
        assert data["index"] == len(self._blocks), "another block is stopped"
        if self._block["type"] == "tool_use":
            arguments(self._filled["partial_json"])
        if self._block["type"] == "thinking":
            assert self._filled.get("signature"), "thinking without a signature"
        self._blocks.append(self._block)
        self._block = None

    def _message_delta(self, data: Any) -> None:
        assert self._block is None, "a block is still open"
        self._reason = data["delta"]["stop_reason"]
        assert self._reason in REASONS
        calls = any(block["type"] == "tool_use" for block in self._blocks)
        assert (self._reason == "tool_use") == calls, "the reason and the calls do not agree"
        assert (self._reason == "stop_sequence") == (data["delta"]["stop_sequence"] is not None)
        begun, ended = (sum(usage[name] for name in PROMPT) for usage in (self._usage, data["usage"]))
        assert begun in (0, ended), "the prompt has changed its length"  # 0 = nobody knew it yet
        assert data["timings"]["draft_n_accepted"] <= data["timings"]["draft_n"]

    def _message_stop(self, _: Any) -> None:
        assert self._reason is not None, "a stop without a reason"
        self.ended = self.complete = True


def check(frames: Sequence[Frame]) -> MessagesOrder:
    """Raises AssertionError."""
    order = MessagesOrder()
    for frame in frames:
        order.take(frame)
    return order
