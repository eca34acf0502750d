"""The steps of one response as they come: waited for, counted, and put aside while nothing can follow from them.

Must not: watch what they say, or decide. Invariant: every step that came is in the transcript's counts before anybody
takes it, whichever thread it was put aside on, and whatever ended the wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from detectors.finding import Finding
from policies.trust import Limit
from proxy.backends.base import Delta, Generation
from proxy.guard.hold_clock import HoldClock
from proxy.guard.lag import Lag
from proxy.guard.transcript import Transcript
from proxy.guard.watchdog import Watchdog

NEXT_STEP = 16
"""Tokens that a step may commit at most; it must not reach beyond a limit."""


MayWait = Literal["no", "in a row", "for any"]
"""Whether a step may wait for the next one: for any, whenever that may come, as nothing can leave in between; or only
where the engine makes it at once, so that what is said leaves some milliseconds later and not whenever."""


class Steps:
    """limit: of the context up to which the mode is trusted; its owner changes it. hold_clock: runs while the engine
    works; clock: seconds from any point on."""

    def __init__(
        self,
        generation: Generation,
        transcript: Transcript,
        watchdog: Watchdog,
        hold_clock: HoldClock,
        clock: Callable[[], float],
        limit: Limit | None,
    ) -> None:
        self._generation, self._transcript = generation, transcript
        self._watchdog, self._hold_clock = watchdog, hold_clock
        self._lag = Lag(clock)
        self._given_up = False
        self.limit = limit

    async def next(self, may_wait: MayWait, late: Callable[[Finding], None]) -> Delta | None:
        """The next step that something may follow from; those before it are put aside. late: told of a step that does
        not come. Raises BackendError, Stalled."""
        waits = None if may_wait == "no" else self._waits
        with self._hold_clock:
            delta = await self._step(waits, late)
            while may_wait == "for any" and delta is not None and self._waits(delta):
                delta = await self._step(waits, late)
        if delta is not None:
            self._transcript.count(delta)
        return delta

    def take(self, *last: Delta) -> list[Delta]:
        """All that was put aside, and this step behind it."""
        return self._lag.take(*last)

    def is_within(self, context: int) -> bool:
        """The step behind so many tokens stays within the limit."""
        return self.limit is None or context + NEXT_STEP <= self.limit.tokens

    async def _step(self, waits: Callable[[Delta], bool] | None, late: Callable[[Finding], None]) -> Delta | None:
        try:
            return await self._watchdog.wait(self._generation.next(waits), self._reach, late)
        except BaseException:
            self._given_up = True  # the engine may still ask about a step that it was in the middle of
            raise
        finally:
            self._count_aside()

    def _waits(self, delta: Delta) -> bool:
        """Whether nothing follows from this step yet; then it is put aside. On whatever thread."""
        return not self._given_up and self.is_within(delta.step.context) and self._lag.takes(delta)

    def _reach(self) -> int:
        """Index of the token that comes next."""
        self._count_aside()
        return self._transcript.reach

    def _count_aside(self) -> None:
        for delta in self._lag.fresh():
            self._transcript.count(delta)
