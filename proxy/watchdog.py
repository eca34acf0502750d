"""Waits for a step, notices when it does not come, and gives it up in the end.

Must not: interrupt a step that is merely late (a device cannot be), or count time in which nobody waits for one.
Invariant: `late` is told at most once per step; `Stalled` is raised only after it was told.

The event loop's clock is the clock, so tests run on a loop whose time they turn by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from detectors.finding import Finding
from detectors.stall import StallDetector
from proxy.backends.base import BackendError

T = TypeVar("T")


class Stalled(BackendError):
    """A step was given up. It may still run: whoever closes the generation must not wait for it."""

    def __init__(self, finding: Finding) -> None:
        seconds = finding.evidence["waited_s"]
        super().__init__(f"the engine gave no token for {seconds:.0f} s; the response cannot be completed")
        self.finding = finding


class Watchdog:
    """Of one response, of which it holds nothing: a cycle would keep its cache in memory for longer than it lives.

    gives_up: False waits for ever, as an observer does.
    """

    def __init__(self, gives_up: bool, stall: StallDetector | None = None) -> None:
        self._gives_up = gives_up
        self._stall = stall or StallDetector()

    async def wait(self, step: Awaitable[T], position: int, late: Callable[[Finding], None]) -> T:
        """The step's result. position: the token that it begins with. late: is told of it when it is late. Raises
        Stalled."""
        loop = asyncio.get_running_loop()
        late_s, lost_s = self._stall.late_s, self._stall.lost_s
        asked = loop.time()

        def tell() -> None:
            finding = self._stall.waiting(max(loop.time() - asked, late_s), position)
            if finding is not None:
                late(finding)

        timer = loop.call_later(late_s, tell)
        patience = asyncio.timeout(lost_s if self._gives_up else None)
        try:
            async with patience:
                result = await step
        except TimeoutError:
            finding = self._stall.waiting(max(loop.time() - asked, lost_s), position)
            if not patience.expired() or finding is None:
                raise  # the backend's own
            raise Stalled(finding) from None
        finally:
            timer.cancel()
        self._stall.stepped(loop.time() - asked)
        return result
