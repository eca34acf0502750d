"""What every event of a value (it begins, ends, a key or a comma comes) means for the open places.

Must not: read bytes (that is `automaton.py`), or decide a check otherwise than jsonschema-rs would.
Invariant: a node dies at an event only if no continuation lets it live.
"""

from __future__ import annotations

import json

import jsonschema_rs

from detectors.json_stream.compiled import UNCHECKED
from detectors.json_stream.frame import Frame, canonical, unmet
from detectors.json_stream.nodes import ARRAY, NUMBER, OBJECT, STRING
from detectors.json_stream.places import Places
from detectors.json_stream.plan import Link, Plan

MAX_REREAD = 4
"""`uniqueItems` parses items again: at most this many times the bytes so far, the rest is left to the end."""


class Evaluation(Places):
    """Told of values, keys and commas as they begin and end."""

    __slots__ = ()

    def _raw(self, start: int, end: int) -> bytes:
        """The bytes from offset `start` to before `end`."""
        raise NotImplementedError

    # Beginning of values

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
        if plan.depends and self.trip is None:
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
            key = canonical(value)
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

    # First members, and after a comma

    def _first_member(self) -> None:
        """The first key or element begins."""
        frame, level = self._stack[-1], len(self._stack) - 1
        keyword = "maxProperties" if frame.is_object else "maxItems"
        for bit, node, most in frame.plan.max_properties if frame.is_object else frame.plan.max_items:
            if most <= 0:
                self._blame = (node, keyword, level)
                self._kill(level, bit)

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
            if keyword := unmet(node, frame):
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


_UNIQUE = jsonschema_rs.Draft202012Validator({"uniqueItems": True})


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
