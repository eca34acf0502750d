"""The three-valued verdicts of all open places of a value, and how they travel outwards until the root is dead.

Must not: read bytes (that is `automaton.py`), or change a container that a clone still sees.
Invariant: a verdict, once given, never changes; the value is dead exactly when the root's node is.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs

from detectors.json_stream.compiled import UNCHECKED, CompiledSchema, holds
from detectors.json_stream.nodes import ARRAY, NUMBER, OBJECT, STRING, Node
from detectors.json_stream.plan import Link, Plan
from detectors.json_stream.trip import Rules, Trip, TripClass

MAX_REREAD = 4
"""`uniqueItems` parses items again: at most this many times the bytes so far, the rest is left to the end."""


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


class Evaluation:
    """Told of values as they begin and end; `trip` is set at the byte at which the value died."""

    __slots__ = ("_at", "_blame", "_in_key", "_link", "_owner", "_reread", "_stack", "compiled", "rules", "trip")

    def __init__(self, compiled: CompiledSchema, rules: Rules) -> None:
        self.compiled, self.rules = compiled, rules
        self.trip: Trip | None = None
        self._owner: object = object()
        self._stack: list[Frame] = []
        # Without unique keys a later member may replace an earlier one: nothing is decided before the end.
        self._link = compiled.root if rules.duplicate_keys else UNCHECKED
        self._at = 0
        self._in_key = False
        self._blame: tuple[Any, ...] = ()
        self._reread = 0

    def _raw(self, start: int, end: int) -> bytes:
        """The bytes from offset `start` to before `end`."""
        raise NotImplementedError

    def _top(self) -> Frame:
        """The innermost container, ours to change."""
        return self._own(len(self._stack) - 1)

    def _own(self, level: int) -> Frame:
        frame = self._stack[level]
        if frame.owner is not self._owner:
            frame = self._stack[level] = frame.copy(self._owner)
        return frame

    # Beginning of values

    def _begin(self, kind: int) -> int:
        """A value of this kind begins at the current place; its dead nodes."""
        link = self._link
        dead = link.plan.start[kind][0]
        if dead & link.plan.roots:
            self._blame = (link.plan, kind, len(self._stack), dead)
            self._report_dead(len(self._stack) - 1, link, dead)
        return dead

    def _open(self, is_object: bool) -> None:
        kind = OBJECT if is_object else ARRAY
        if len(self._stack) >= self.rules.depth:
            self._fail("limit_depth")
            return
        if not self._stack and self.rules.root_object and not is_object:
            self._fail("not_an_object")
            return
        link = self._link
        dead, settled = self._begin(kind), link.plan.start[kind][2]
        frame = Frame(self._owner, link, is_object, dead, settled)
        self._stack.append(frame)
        if is_object:
            return
        frame.item_at = self._at + 1
        if frame.plan.unique:
            frame.items = {}
        self._link = self.compiled.element(frame.plan, 0) if frame.plan.all else UNCHECKED

    # Keys

    def _key_done(self, key: str) -> None:
        """A key is complete (and not a duplicate); `_link` becomes its value's."""
        frame = self._top()
        frame.key = key
        frame.seen.add(key)
        plan = frame.plan
        if not plan.all:
            self._link = UNCHECKED
            return
        self._link = link = self.compiled.member(plan, key)
        level = len(self._stack) - 1
        if link.never:
            self._blame = (link.plan, STRING, level + 1, 0)
            self._kill(level, link.never)
        if plan.formulas and self.trip is None:
            self._kill(level, 0)

    # Ends of values

    def _end_scalar(self, kind: int, dead: int) -> None:
        """A string, number or literal is complete. dead: as `_begin` gave it, plus what failed since."""
        self._end_text(kind, dead)
        if self.trip is None and self._stack:
            self._member_done(self._at if kind == NUMBER else self._at + 1)

    def _end_text(self, kind: int, dead: int) -> None:
        """The same for a key, which is no member."""
        link = self._link
        if not link.silent:
            plan = link.plan
            if dead == plan.start[kind][0]:
                if plan.quiet[kind] and not (link.counts or link.unknown):
                    return
                final, valid = plan.finals[kind]
            else:
                final, valid, blame = plan.close(dead, plan.all & ~plan.opaque, (), True)
                if blame:
                    self._blame = (*blame, len(self._stack))
            self._report_end(link, dead, final, valid)

    def _close(self) -> None:
        """The innermost container is complete."""
        level = len(self._stack) - 1
        frame = self._top()
        if frame.plan.all:
            self._check_object(frame, level) if frame.is_object else self._check_array(frame, level)
            if self.trip is not None:
                return
            before = frame.dead
            settled = frame.plan.all & ~frame.plan.opaque & ~frame.unknown
            dead, valid, blame = frame.plan.close(before, settled, frame.seen, True)
            if blame:
                self._blame = (*blame, level)
            self._stack.pop()
            self._report_end(frame.link, before, dead, valid)
        else:
            self._stack.pop()
            if frame.link.unknown:
                self._report_end(frame.link, 0, 0, 0)
        if self.trip is None and self._stack:
            self._member_done(self._at + 1)

    def _report_end(self, link: Link, before: int, dead: int, valid: int) -> None:
        """Tells the outer place of final verdicts. before: what was reported dead already."""
        level = len(self._stack) - 1
        if dead & ~before & link.plan.roots:
            self._report_dead(level, link, dead)
            if self.trip is not None:
                return
        if level < 0:
            return
        unknown = link.unknown
        for bit, mask in link.uses:
            if not (dead | valid) & bit:
                unknown |= mask
        if unknown & ~self._stack[level].unknown:
            self._own(level).unknown |= unknown
        if link.counts:
            self._count(level, link, dead, valid)

    def _count(self, level: int, link: Link, dead: int, valid: int) -> None:
        frame = self._own(level)
        for inner, outer in link.counts:
            sure, possible = frame.hits.get(outer, (0, 0))
            if valid & inner:
                sure += 1
            elif not dead & inner:
                possible += 1
            frame.hits[outer] = (sure, possible)
            node = frame.plan.nodes[outer.bit_length() - 1]
            if node.max_contains is not None and sure > node.max_contains:
                self._blame = (node, "maxContains", level)
                self._kill(level, outer)

    def _member_done(self, end: int) -> None:
        """A member or element of the innermost container is complete. end: offset behind its last byte."""
        frame = self._top()
        frame.count += 1
        plan = frame.plan
        if plan.unique and not frame.is_object:
            self._compare(frame, plan, end)
        if plan.settlers and frame.is_object and self.trip is None:
            self._settle(frame, plan)

    def _settle(self, frame: Frame, plan: Plan) -> None:
        settled = frame.settled
        for bit, node in plan.settlers:
            if not (settled | frame.dead | frame.unknown) & bit and (
                frame.seen.issuperset(node.required)
                and frame.seen.issuperset(node.properties)
                and frame.count >= node.min_properties
            ):
                settled |= bit
        if settled != frame.settled:
            frame.settled = settled
            self._kill(len(self._stack) - 1, 0)

    def _compare(self, frame: Frame, plan: Plan, end: int) -> None:
        """uniqueItems. Python finds equal items, jsonschema-rs confirms."""
        if frame.items is None:
            return
        raw = self._raw(frame.item_at, end)
        self._reread += len(raw)
        if self._reread > MAX_REREAD * (self._at + 1) + 4096:
            frame.items = None
            return
        try:
            value = json.loads(raw)
            key = _canonical(value)
        except (ValueError, RecursionError):
            frame.items = None
            return
        if key not in frame.items:
            frame.items[key] = value
            return
        if not _UNIQUE.is_valid([frame.items[key], value]):
            for bit, node in plan.unique:
                self._blame = (node, "uniqueItems", len(self._stack) - 1)
                self._kill(len(self._stack) - 1, bit)

    # After a comma

    def _next_member(self) -> None:
        """A comma in an object: another key must follow."""
        frame, level = self._stack[-1], len(self._stack) - 1
        for _, bit, keyword, options in frame.plan.closed:
            if not frame.dead & bit and frame.seen.issuperset(map(_text, options)):
                self._blame = (frame.plan.nodes[bit.bit_length() - 1], keyword, level)
                self._kill(level, bit)
        for bit, node, most in frame.plan.max_properties:
            if frame.count >= most:
                self._blame = (node, "maxProperties", level)
                self._kill(level, bit)

    def _next_element(self) -> None:
        """A comma in an array: another element must follow."""
        frame, level = self._top(), len(self._stack) - 1
        frame.item_at = self._at + 1
        if not frame.plan.all:
            self._link = UNCHECKED
            return
        for bit, node, most in frame.plan.max_items:
            if frame.count >= most:
                self._blame = (node, "maxItems", level)
                self._kill(level, bit)
        if self.trip is None:
            self._link = link = self.compiled.element(frame.plan, frame.count)
            if link.never:
                self._blame = (link.plan, STRING, level + 1, 0)
                self._kill(level, link.never)

    # Checks of whole containers

    def _check_object(self, frame: Frame, level: int) -> None:
        for bit, node in frame.plan.ends_object:
            if keyword := _unmet(node, frame):
                self._blame = (node, keyword, level)
                self._kill(level, bit)
        for bit, node, most in frame.plan.max_properties:
            if frame.count > most:
                self._blame = (node, "maxProperties", level)
                self._kill(level, bit)

    def _check_array(self, frame: Frame, level: int) -> None:
        for bit, node in frame.plan.ends_array:
            keyword = "minItems" if frame.count < node.min_items else ""
            if node.contains is not None and not frame.unknown & bit:
                sure, possible = frame.hits.get(bit, (0, 0))
                if sure + possible < node.min_contains:
                    keyword = "contains" if node.min_contains == 1 else "minContains"
                elif possible and (sure < node.min_contains or node.max_contains is not None):
                    frame.unknown |= bit
            if keyword:
                self._blame = (node, keyword, level)
                self._kill(level, bit)
        if frame.items is None:
            for bit, _ in frame.plan.unique:
                frame.unknown |= bit

    # Deaths

    def _kill(self, level: int, mask: int) -> None:
        """Nodes of an open container die; with an empty mask its formulas are only looked at again."""
        frame = self._own(level)
        before = frame.dead
        if mask and not mask & ~before:
            return
        dead, _, blame = frame.plan.close(before | mask, frame.settled, frame.seen, False)
        frame.dead = dead
        if blame:
            self._blame = (*blame, level)
        if dead & ~before & frame.plan.roots:
            self._report_dead(level - 1, frame.link, dead)

    def _report_dead(self, level: int, link: Link, dead: int) -> None:
        """Nodes of a place are dead: those outside that needed them die too."""
        mask = 0
        for bit, outer in link.uses:
            if dead & bit:
                mask |= outer
        if not mask:
            return
        if level < 0:
            self._die()
        else:
            self._kill(level, mask)

    def _die(self) -> None:
        node, keyword, level = _resolve_blame(self._blame)
        schema_path = f"{node.path}/{keyword}" if keyword != "false" else node.path
        self._fail("schema", keyword, level, schema_path)

    def _fail(self, kind: TripClass, keyword: str = "", level: int | None = None, schema_path: str = "") -> None:
        if self.trip is None:
            depth = len(self._stack) if level is None else level
            depth -= self._in_key and depth == len(self._stack)  # an open key is not yet part of the path
            path = "".join(f"/{_escaped(frame)}" for frame in self._stack[:depth])
            self.trip = Trip(kind, keyword, path, schema_path, self._at, self.compiled.exactness)

    def _scalar_fails(self, dead: int, bit: int, link: Link, node: Node, keyword: str) -> int:
        """A scalar fails a check of one node; all that are dead now."""
        if dead & bit:
            return dead
        level = len(self._stack)
        self._blame = (node, keyword, level)
        after, _, blame = link.plan.close(dead | bit, 0, (), False)
        if blame:
            self._blame = (*blame, level)
        if after & ~dead & link.plan.roots:
            self._report_dead(level - 1, link, after)
        return after

    def _check_whole(self, dead: int, link: Link, checks: Any, value: Any) -> int:
        """Runs validators on a complete scalar."""
        for bit, node, validator in checks:
            if not dead & bit and not holds(validator, value):
                error = next(iter(validator.iter_errors(value)), None)
                keyword = error.kind.name if error is not None else "pattern"
                dead = self._scalar_fails(dead, bit, link, node, keyword)
                if self.trip is not None:
                    break
        return dead


_UNIQUE = jsonschema_rs.Draft202012Validator({"uniqueItems": True})


def _unmet(node: Node, frame: Frame) -> str:
    if not frame.seen.issuperset(node.required):
        return "required"
    if frame.count < node.min_properties:
        return "minProperties"
    for keyword, key, needed in node.dep_required:
        if key in frame.seen and not frame.seen.issuperset(needed):
            return keyword
    return ""


def _resolve_blame(blame: tuple[Any, ...]) -> tuple[Node, str, int]:
    """A choice or a check is blamed by name; a first byte by its kind, whose reason is looked up only now."""
    if not blame:
        return Node(""), "", 0
    if not isinstance(blame[0], Plan):
        node, keyword, level = blame
        return node, keyword, level
    plan, kind, level, dead = blame
    culprits = (dead or plan.start[kind][0]) & plan.roots
    node, keyword = plan.explain(kind, culprits & -culprits)
    return node, keyword, level


def _escaped(frame: Frame) -> str:
    if not frame.is_object:
        return str(frame.count)
    return frame.key.replace("~", "~0").replace("/", "~1")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _canonical(value: Any) -> Any:
    """Equal for equal JSON values: numbers by value, booleans apart from them."""
    if isinstance(value, bool) or value is None:
        return (bool, value)
    if isinstance(value, dict):
        return (dict, frozenset((key, _canonical(member)) for key, member in value.items()))
    if isinstance(value, list):
        return (list, tuple(map(_canonical, value)))
    return value
