"""How long the engine has worked on a call that is held back, and the moment at which a client will not wait longer.

Must not: count time that the client spends reading, or that a request waits for its place.
Invariant: a call is found to be held too long at most once, at a step's end (a step cannot be interrupted).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectors.finding import Finding, Grade


class HoldClock:
    """Of one response, entered while the engine works. limit_s: 0 = none. clock: seconds from any point on.

    A rewind of the call does not set it back: the client has still got nothing.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float]) -> None:
        self._limit_s, self._clock = limit_s, clock
        self._holding = self._told = False
        self._call = -1
        self._began = self.held_s = 0.0

    def __enter__(self) -> None:
        """The engine works from here on."""
        if self._holding:
            self._began = self._clock()

    def __exit__(self, *_: object) -> None:
        if self._holding:
            self.held_s += self._clock() - self._began

    def hold(self, call: int) -> None:
        """The response's call of this index is open; idempotent. The one before it is no longer waited for."""
        if call > self._call:
            self.release()
            self._call = call
        self._holding = True

    def release(self) -> None:
        """Whatever was held has been sent or dropped."""
        self._holding = self._told = False
        self.held_s = 0.0

    def finding(self, channel: str, position: int, began: int, tool: str, chars: int) -> Finding | None:
        """The open call has been held for longer than the limit, if so and not told yet. chars: what there is of it."""
        if self._told or not self._limit_s or self.held_s < self._limit_s:
            return None
        self._told = True
        evidence: dict[str, Any] = {"held_s": round(self.held_s, 3), "limit_s": self._limit_s, "chars": chars}
        if tool:
            evidence["tool"] = tool
        return Finding("tool.held", Grade.FALLBACK, channel, position, began, "held too long", evidence)
