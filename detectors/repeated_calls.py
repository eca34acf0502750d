"""Repeated calls inside one response: the same tool with the same arguments, whatever comes between.

Must not: hold arguments (they may be a file), or tell two calls apart by the order of their keys or their spacing.
Invariant: of a response's calls only those that are equal as JSON values count; memory is one digest per distinct call.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from detectors.finding import Finding, Grade


@dataclass(frozen=True, slots=True)
class RepeatedCallSettings:
    """Copies of one call in one response."""

    suspect: int = 2
    """Equal calls of one response get equal answers, or the second was a mistake; a pair happens to sound models."""

    fallback: int = 3
    abort: int = 5
    """The copies before were delivered and a client can go on with those: ending costs nothing but the copies."""

    distinct: int = 1024
    """Calls that are remembered."""

    def __post_init__(self) -> None:
        if not 2 <= self.suspect <= self.fallback <= self.abort:
            raise ValueError("suspect, fallback, abort: must be 2 copies or more and not fall")
        if self.distinct < 1:
            raise ValueError(f"distinct: must be 1 or more, not {self.distinct}")


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
"""Made once: to make one takes longer than what it has to write."""


def canonical(arguments: Any) -> str:
    """JSON text of a value: keys sorted, no spaces. What is no JSON is written as Python writes it."""
    try:
        return _CANONICAL.encode(arguments)
    except (TypeError, ValueError):
        return repr(arguments)


def call_digest(name: str, arguments: str) -> str:
    """Of a call. arguments: `canonical` ones."""
    return hashlib.sha256(f"{name}\n{arguments}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def step_digest(calls: Iterable[str]) -> str:
    """Of the `call_digest`s of one turn, whose order does not count. Empty for no calls."""
    ordered = sorted(calls)
    return hashlib.sha256(" ".join(ordered).encode()).hexdigest()[:32] if ordered else ""


class RepeatedCalls:
    """The calls of one response, each fed when it is complete."""

    def __init__(self, settings: RepeatedCallSettings = RepeatedCallSettings()) -> None:
        self._settings = settings
        self._seen: dict[str, tuple[int, int]] = {}  # copies; first token of the second copy

    def feed(self, name: str, arguments: str, index: int, first: int, last: int) -> Finding | None:
        """arguments: JSON text, or the raw body of a call that could not be read. first, last: its tokens."""
        with contextlib.suppress(ValueError, RecursionError):  # not to be brought into order: equal text is equal
            arguments = canonical(json.loads(arguments))
        key = call_digest(name, arguments)
        copies, second = self._seen.get(key, (0, first))
        if not copies and len(self._seen) >= self._settings.distinct:
            return None
        copies, second = copies + 1, first if copies <= 1 else second
        self._seen[key] = copies, second
        grade = self._reached(copies)
        if grade is None:
            return None
        reason = f"{grade.name.lower()}: the same call in one response"
        evidence = {"tool": name[:128], "copies": copies}
        return Finding("loop.calls", grade, f"tool:{index}", last, second, reason, evidence)

    @property
    def digest(self) -> str:
        """`step_digest` of all calls so far."""
        return step_digest(key for key, (copies, _) in self._seen.items() for _ in range(copies))

    def _reached(self, copies: int) -> Grade | None:
        """Each copy from the third on speaks: every one of them is a call that should not be sent."""
        settings = self._settings
        if copies >= settings.abort:
            return Grade.ABORT
        if copies >= settings.fallback:
            return Grade.FALLBACK
        return Grade.SUSPECT if copies >= settings.suspect else None
