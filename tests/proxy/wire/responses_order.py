"""The rules that every stream of responses obeys, as a checker for the tests.

Must not: know what the model said.
Invariant: passes exactly the streams whose sequence numbers count, whose items follow each other, and whose deltas,
done events, items and end agree; or that end with a failure; or that were cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.proxy.wire.frames import Frame, arguments

OPENING = ("response.created", "response.in_progress")
STATUS = {
    "response.completed": ("completed",),
    "response.incomplete": ("incomplete",),
    "response.failed": ("failed",),
}
FIELDS = {
    "response.output_text": "text",
    "response.reasoning_text": "text",
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}
STEMS = {
    "message": ("response.output_text", "response.content_part"),
    "reasoning": ("response.reasoning_text",),
    "function_call": ("response.function_call_arguments",),
    "custom_tool_call": ("response.custom_tool_call_input",),
}

AFTER = {
    "response.output_text.delta": "response.content_part.added",
    "response.output_text.done": "response.content_part.added",
    "response.content_part.done": "response.output_text.done",
}


class ResponsesOrder:
    """Takes frame after frame. ended: nothing may follow. complete: it ended as a success."""

    def __init__(self) -> None:
        self.ended = self.complete = False
        self._sequence = 0
        self._opened = 0
        self._id = ""
        self._items: list[Any] = []
        self._item: Any = None
        self._filled = ""
        self._done: set[str] = set()

    def take(self, frame: Frame) -> None:
        """Raises AssertionError."""
        assert not self.ended, f"after the end: {frame}"
        assert frame.name == frame.kind, "clients hear a frame by its name"
        data = frame.data
        assert data["sequence_number"] == self._sequence, "sequence numbers count the frames"
        self._sequence += 1
        if frame.kind == "keepalive":
            assert self._opened, "a sign of life before the response was created"
        elif self._opened < len(OPENING):
            assert frame.kind == OPENING[self._opened], f"{frame.kind} comes too soon"
            assert data["response"]["status"] == "in_progress"
            assert data["response"]["output"] == []
            assert data["response"]["id"]
            assert self._id in ("", data["response"]["id"]), "two responses"
            self._id = data["response"]["id"]
            self._opened += 1
        elif frame.kind in STATUS:
            self._end(frame.kind, data["response"])
        else:
            self._step(frame.kind, data)

    def _step(self, kind: str, data: Any) -> None:
        stem, _, step = kind.rpartition(".")
        assert data["output_index"] == len(self._items), "items are not one after the other"
        if kind == "response.output_item.added":
            assert self._item is None, "an item is still open"
            self._item, self._filled, self._done = data["item"], "", set()
            assert _text(self._item) == "", "an item begins empty"
            return
        assert self._item is not None, f"{kind} outside of items"
        if kind == "response.output_item.done":
            self._close(data["item"])
            return
        assert data["item_id"] == self._item["id"], f"{kind} of another item"
        assert stem in STEMS[self._item["type"]], f"{kind} in an item of another kind"
        assert kind not in self._done, f"{kind} comes twice"
        if before := AFTER.get(kind):
            assert before in self._done, f"{kind} before {before}"
        if step == "delta":
            assert f"{stem}.done" not in self._done, "a delta after it was done"
            self._filled += data["delta"]
            return
        self._done.add(kind)
        if stem in FIELDS:
            assert data[FIELDS[stem]] == self._filled, "the deltas do not add up"

    def _close(self, item: Any) -> None:
        opened = self._item
        assert (item["id"], item["type"]) == (opened["id"], opened["type"]), "another item is done"
        assert item["id"] not in [each["id"] for each in self._items], "an id comes twice"
        assert _text(item) == self._filled, "the item is not what its deltas said"
        assert {f"{stem}.done" for stem in STEMS[item["type"]]} <= self._done, "a part is not done"
        if item["type"] == "function_call":
            arguments(item["arguments"])
        if item["type"] != "reasoning":
            assert item["status"] in ("completed", "incomplete")
        self._items.append(item)
        self._item = None

    def _end(self, kind: str, response: Any) -> None:
        assert response["id"] == self._id, "two responses"
        assert response["status"] in STATUS[kind]
        assert response["output"] == self._items, "the end does not hold the items"
        self.ended, self.complete = True, kind != "response.failed"
        if self.complete:
            assert self._item is None, "an item is still open"
            assert response["usage"]["input_tokens"] >= 0
            assert response["timings"]["draft_n_accepted"] <= response["timings"]["draft_n"]
        else:
            assert set(response["error"]) == {"code", "message"}
        assert (kind == "response.incomplete") == (response["incomplete_details"] is not None)


def check(frames: Sequence[Frame]) -> ResponsesOrder:
    """Raises AssertionError."""
    order = ResponsesOrder()
    for frame in frames:
        order.take(frame)
    return order


def check_order(documents: Sequence[Any]) -> None:
    """The same, of documents whose frames were taken apart already."""
    check([Frame(document["type"], document) for document in documents])


def _text(item: Any) -> str:
    if "content" in item:
        return "".join(part["text"] for part in item["content"])
    text: str = item.get("input", "") if item["type"] == "custom_tool_call" else item.get("arguments", "")
    return text
