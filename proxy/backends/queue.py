"""How many responses may be in the making at once, and how many requests may wait for that.

Must not: know what a response is. Invariant: first come, first served; a request that gives up leaves no trace, and
nobody waits behind a place that is free.
"""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.backends.errors import QueueFull


class TurnQueue:
    """running: places; waiting: requests that may wait for one. Belongs to one event loop."""

    def __init__(self, running: int, waiting: int) -> None:
        self._places, self._most_waiting = running, waiting
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def running(self) -> int:
        """Responses in the making."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is served and nobody waits."""
        return not self._running and not self._waiting

    async def enter(self) -> None:
        """Returns when there is a place; `leave` gives it back. Raises QueueFull at once if too many wait already."""
        if self._running < self._places and not self._waiting:
            self._running += 1
            return
        if len(self._waiting) >= self._most_waiting:
            raise QueueFull(
                f"{self._running} responses are in the making and {len(self._waiting)} requests wait; retry in a moment"
            )
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was handed over just now
                self.leave()
            elif place in self._waiting:  # `leave` may have met it already
                self._waiting.remove(place)
            raise

    def leave(self) -> None:
        """Gives a place back; the one who has waited longest gets it."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)  # the place changes hands: the number of running ones stays
                return
        self._running -= 1
