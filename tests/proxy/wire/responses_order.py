"""The rules that every stream of responses obeys, as a checker for the tests.

Must not: know what the model said.
Invariant: passes exactly the streams whose deltas, done events and items agree and whose items follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

END = ("response.completed", "response.incomplete", "response.failed")
DELTAS = {
    "response.output_text": "text",
    "response.reasoning_text": "text",
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
}


def check_order(frames: Sequence[Any]) -> None:
    """Raises AssertionError."""
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    told = [frame for frame in frames if frame["type"] != "keepalive"]
    kinds = [frame["type"] for frame in told]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [kind for kind in kinds if kind in END] in ([], kinds[-1:])
    assert kinds.count("response.created") == 1
    items: list[Any] = []
    added: Any = None
    filled = ""
    for frame in told[2:]:
        kind = frame["type"]
        if kind in END:
            continue
        assert frame["output_index"] == len(items)
        stem, _, step = kind.rpartition(".")
        if kind == "response.output_item.added":
            assert added is None
            added, filled = frame["item"], ""
        elif kind == "response.output_item.done":
            item = frame["item"]
            assert (item["id"], item["type"]) == (added["id"], added["type"])
            assert filled == _text(item)
            items.append(item)
            added = None
        elif stem in DELTAS:
            assert frame["item_id"] == added["id"]
            if step == "delta":
                filled += frame["delta"]
            else:
                assert frame[DELTAS[stem]] == filled
        else:
            assert frame["item_id"] == added["id"]
    if kinds[-1] in END:
        assert told[-1]["response"]["output"] == items
        assert kinds[-1] == "response.failed" or added is None


def _text(item: Any) -> str:
    if "content" in item:
        return "".join(part["text"] for part in item["content"])
    text: str = item["input"] if item["type"] == "custom_tool_call" else item["arguments"]
    return text
