"""Where faults of the device itself strike: a step that hangs, a thread that dies.

Must not: strike a turn twice, or before it has said something.
Invariant: `release` ends every hang, so that whoever planted one can still end its thread.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

from engine.faults import Fault
from engine.turn import Turn

STRIKES_AT = 8
"""Generated tokens after which a turn is struck."""


class ThreadDeath(BaseException):
    """Not an Exception, so that nothing which handles a failed step handles it."""


class PlantedDevice:
    """One per engine."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault if fault in (Fault.STEP_HANGS, Fault.WORKER_DIES) else None
        self._struck: weakref.WeakSet[Turn] = weakref.WeakSet()
        self._released = threading.Event()

    def before_step(self, turns: Sequence[Turn]) -> None:
        """Raises ThreadDeath, or does not return before `release`."""
        if self._fault is None:
            return
        for turn in turns:
            if turn in self._struck or len(turn.generated) < STRIKES_AT:
                continue
            self._struck.add(turn)
            if self._fault is Fault.WORKER_DIES:
                raise ThreadDeath(f"planted: {self._fault}")
            self._released.clear()
            self._released.wait()

    def release(self) -> None:
        """Lets a step that hangs go on."""
        self._released.set()
