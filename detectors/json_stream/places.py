"""The open places of a value: how the death of a node travels outwards until the root's is dead.

Must not: read bytes, or change a container that a clone still sees.
Invariant: a verdict, once given, never changes; the value is dead exactly when the root's node is.
"""

from __future__ import annotations

from typing import Any

from detectors.json_stream.compiled import UNCHECKED, CompiledSchema, holds
from detectors.json_stream.frame import Frame, step
from detectors.json_stream.nodes import Node
from detectors.json_stream.plan import Link, Plan
from detectors.json_stream.trip import Rules, Trip, TripClass


class Places:
    """`trip` is set at the byte at which the value died. `_link`: to the place where the next value begins."""

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

    def _top(self) -> Frame:
        """The innermost container, ours to change."""
        return self._own(len(self._stack) - 1)

    def _own(self, level: int) -> Frame:
        frame = self._stack[level]
        if frame.owner is not self._owner:
            frame = self._stack[level] = frame.copy(self._owner)
        return frame

    def _begin(self, kind: int) -> int:
        """A value of this kind begins at the current place; its dead nodes."""
        link = self._link
        dead = link.plan.start[kind][0]
        if dead & link.plan.roots:
            self._blame = (link.plan, kind, len(self._stack), dead)
            self._report_dead(len(self._stack) - 1, link, dead)
        return dead

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
        node, keyword, level = resolve_blame(self._blame)
        if node.is_constant:
            keyword = node.kind_keyword
        schema_path = node.path if node.is_constant or keyword == "false" else f"{node.path}/{keyword}"
        self._fail("schema", keyword, level, schema_path)

    def _fail(self, kind: TripClass, keyword: str = "", level: int | None = None, schema_path: str = "") -> None:
        if self.trip is None:
            depth = len(self._stack) if level is None else level
            depth -= self._in_key and depth == len(self._stack)  # an open key is not yet part of the path
            path = "".join(f"/{step(frame)}" for frame in self._stack[:depth])
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


def resolve_blame(blame: tuple[Any, ...]) -> tuple[Node, str, int]:
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
