"""Waits for a step, notices when it does not come, and gives it up in the end.

Must not: interrupt a step that is merely late (a device cannot be), or count time in which nobody waits for one.
Invariant: `late` is told at most once per step; `Stalled` is raised only after it was told.

The event loop's clock is the clock, so tests run on a loop whose time they turn by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from detectors.finding import Finding
from detectors.stall import StallDetector
from proxy.backends.errors import BackendError

T = TypeVar("T")
TIMER_SLACK_S = 1e-6
"""A timer may fire by a clock's resolution too early."""


class Stalled(BackendError):
    """A step was given up. It may still run: whoever closes the generation must not wait for it."""

    def __init__(self, finding: Finding) -> None:
        seconds = finding.evidence["waited_s"]
        super().__init__(f"the engine gave no token for {seconds:.0f} s; the response cannot be completed")
        self.finding = finding


class Watchdog:
    """Of one response, of which it holds nothing but while it waits: a cycle would keep its cache in memory for longer
    than it lives.

    gives_up: False waits for ever, as an observer does.

    One timer serves all steps: nearly every step comes in time, and setting two timers for each would cost more than
    all else that happens here.
    """

    def __init__(self, gives_up: bool, stall: StallDetector | None = None) -> None:
        self._gives_up = gives_up
        self._stall = stall or StallDetector()
        self._timer: asyncio.TimerHandle | None = None
        self._wait: _Wait | None = None

    async def wait(self, step: Awaitable[T], position: Callable[[], int], late: Callable[[Finding], None]) -> T:
        """The step's result. position: of the token that is awaited, asked when it
        matters, as more may have come. late: is told of it when it is late. Raises
        Stalled."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        asked = loop.time()
        wait = self._wait = _Wait(task, asked, position, late, task.cancelling())
        self._look_at(loop, self._due(wait))
        try:
            result = await step
        except BaseException as error:
            given_up = wait.take_back()
            if given_up is not None and isinstance(error, asyncio.CancelledError):
                raise Stalled(given_up) from None
            raise
        finally:
            self._wait = None
        wait.take_back()
        self._stall.stepped(loop.time() - asked)
        return result

    def _due(self, wait: _Wait) -> float:
        """When there is something to do about it."""
        lost_s = self._stall.lost_s if self._gives_up else inf
        return wait.asked + (lost_s if wait.told else min(self._stall.late_s, lost_s))

    def _look_at(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        """At the latest; sooner does no harm."""
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = loop.call_at(when, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, wait = None, self._wait
        if wait is None:
            return
        waited = loop.time() - wait.asked + TIMER_SLACK_S
        is_late = not wait.told and waited >= self._stall.late_s
        wait.told = wait.told or is_late
        if self._gives_up and waited >= self._stall.lost_s:
            wait.lost = self._stall.waiting(waited, wait.position())
            wait.task.cancel()
        elif (due := self._due(wait)) < inf:
            self._look_at(loop, due)
        if is_late and (finding := self._stall.waiting(waited, wait.position())) is not None:
            wait.late(finding)  # last, so that whatever it raises the step is watched on


@dataclass(slots=True)
class _Wait:
    """One step that is waited for. cancelling: requests to cancel the task that were there before; lost: what is said
    of the step once it was given up."""

    task: asyncio.Task[Any]
    asked: float
    position: Callable[[], int]
    late: Callable[[Finding], None]
    cancelling: int
    told: bool = False
    lost: Finding | None = None

    def take_back(self) -> Finding | None:
        """Whether the step was given up and nobody else wants the task to end: our request to cancel it counts no more,
        whatever the step made of it."""
        if self.lost is None or self.task.uncancel() > self.cancelling:
            return None
        return self.lost
