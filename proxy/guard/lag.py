"""Short steps that are looked at together: looking at one alone costs more than at several in a row, as the device's
work has pushed the guard's out of the processor's caches by each step. Of an open call nothing could leave anyway;
words leave some milliseconds later.

Must not: put a step aside that something may follow from at once: one that may open or close a call, ends the response,
was audited, came with a number that is none or with a finding of the backend's own.
Invariant: what is put aside is watched before anything else is, oldest first, or discarded by a rewind; if
no step follows it any more, it is watched all the same.

The lag is bounded by the engine's own time, so that an engine whose steps are long is never ahead of the guard. `takes`
may be called on the engine's thread while nobody else uses the object.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.backends.base import Delta
from proxy.guard.transcript import RING

LAG_MS = 25.0
"""Of the engine's work, and of time that passes; what is computed in vain at most if the call is bad, and by how much
words are late: forty times a second they come faster than anybody reads."""


class Lag:
    """Of one response. clock: seconds from any point on."""

    def __init__(self, clock: Callable[[], float], lag_ms: float = LAG_MS) -> None:
        self._clock, self._lag_ms = clock, lag_ms
        self._aside: list[Delta] = []
        self._told = 0
        self._ms = self._since = 0.0
        self._last: float | None = None

    def takes(self, delta: Delta) -> bool:
        """Puts a step aside, if it may wait for the next one."""
        step = delta.step
        if self._ms + step.milliseconds > self._lag_ms or delta.end is not None:
            return False
        if len(self._aside) + 1 >= RING:  # an incident tells of the step that it is about
            return False
        if delta.found is not None:  # no further step may come
            return False
        if step.audit is not None or step.shadow is not None or step.dead_drafter is not None:
            return False
        if step.cache is not None and step.cache.faults:
            return False
        for token in delta.tokens:
            if "<" in token.text or token.finite is False or token.parts is not None:  # whose ends are no tags
                return False
        now = self._clock()
        since = self._since if self._aside else now
        pause = 0.0 if self._last is None else now - self._last  # the next step may take as long as this one did
        if (now - since + pause) * 1e3 > self._lag_ms:
            return False
        self._since, self._last = since, now
        self._ms += step.milliseconds
        self._aside.append(delta)
        return True

    def take(self, *last: Delta) -> list[Delta]:
        """All that was put aside, and this step behind it."""
        taken, self._aside, self._ms, self._told = [*self._aside, *last], [], 0.0, 0
        self._last = self._clock()
        return taken

    def fresh(self) -> list[Delta]:
        """What was put aside since this was last asked."""
        fresh = self._aside[self._told :]
        self._told += len(fresh)
        return fresh
