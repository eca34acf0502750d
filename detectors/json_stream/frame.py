"""An open container of the value, and what can be asked about it when it ends.

Must not: be changed by a stream that does not own it (`copy` first).
Invariant: a copy and its original share nothing that either may change.
"""

from __future__ import annotations

from typing import Any

from detectors.json_stream.nodes import Node
from detectors.json_stream.plan import Link


class Frame:
    """An open container. owner: the stream that may change it; others copy first.

    dead, settled, unknown: bits of the plan's nodes. seen: complete keys of an object; key: the last one.
    count: complete members. hits: per `contains` node (as bit): certain and possible ones. items: for uniqueItems.
    """

    __slots__ = (
        "count", "dead", "hits", "is_object", "item_at", "items", "key", "link", "owner", "plan", "seen", "settled",
        "unknown",
    )  # fmt: skip

    def __init__(self, owner: object, link: Link, is_object: bool, dead: int, settled: int) -> None:
        self.owner, self.link, self.plan, self.is_object = owner, link, link.plan, is_object
        self.dead, self.settled, self.unknown = dead, settled, 0
        self.count = self.item_at = 0
        self.key = ""
        self.seen: set[str] = set()
        self.hits: dict[int, tuple[int, int]] = {}
        self.items: dict[Any, Any] | None = None

    def copy(self, owner: object) -> Frame:
        frame = Frame(owner, self.link, self.is_object, self.dead, self.settled)
        frame.unknown, frame.count, frame.item_at, frame.key = self.unknown, self.count, self.item_at, self.key
        frame.seen = self.seen.copy() if self.seen else set()
        if self.hits:
            frame.hits = self.hits.copy()
        if self.items is not None:
            frame.items = self.items.copy()
        return frame


def unmet(node: Node, frame: Frame) -> str:
    """The keyword that a complete object fails by what it lacks, empty = none."""
    if not frame.seen.issuperset(node.required):
        return "required"
    if frame.count < node.min_properties:
        return "minProperties"
    for keyword, key, needed in node.dep_required:
        if key in frame.seen and not frame.seen.issuperset(needed):
            return keyword
    return ""


def step(frame: Frame) -> str:
    """The open member's part of a JSON pointer."""
    if not frame.is_object:
        return str(frame.count)
    return frame.key.replace("~", "~0").replace("/", "~1")


def canonical(value: Any) -> Any:
    """Equal for equal JSON values: numbers by value, booleans apart from them."""
    if isinstance(value, bool) or value is None:
        return (bool, value)
    if isinstance(value, dict):
        return (dict, frozenset((key, canonical(member)) for key, member in value.items()))
    if isinstance(value, list):
        return (list, tuple(map(canonical, value)))
    return value
