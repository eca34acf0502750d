"""Signs of life while a response is silent: one timer for the whole response, however many events it has.

Must not: know what a sign of life looks like, or be sent while anything else is.
Invariant: a beat begins only while the owner waits for an event, and is over before the owner goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

TIMER_SLACK_S = 1e-6
"""A timer may fire by a clock's resolution too early."""


class Heartbeat:
    """Around what one task does for one response: `pause` before it writes, `resume` when it waits again.

    every_s: of silence until a beat. beat: sends one; what it raises ends the owner's wait and is raised there.
    """

    def __init__(self, every_s: float, beat: Callable[[], Awaitable[None]]) -> None:
        self._every_s, self._beat = every_s, beat
        self._paused = False
        self._beating: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        owner = asyncio.current_task()
        assert owner is not None
        self._owner, self._cancelling = owner, owner.cancelling()
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer = self._loop.call_at(self._since + self._every_s, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._paused = True
        self._timer.cancel()
        beating, self._beating = self._beating, None
        if beating is not None:
            if isinstance(error, asyncio.CancelledError):
                beating.cancel()
            await until_over(beating)
        failure, self._failure = self._failure, None
        if failure is None or self._owner.uncancel() > self._cancelling:
            return  # nothing failed, or somebody else wants the owner to end as well
        try:
            raise failure from None
        finally:
            del failure, error  # the frame is held by what is raised, and would hold it in turn

    async def pause(self) -> None:
        """No beat begins from now on, and the one under way is over. Raises what that one raised."""
        self._paused = True
        if self._beating is not None:
            await asyncio.wait((self._beating,))
            beating, self._beating = self._beating, None
            beating.result()

    def resume(self) -> None:
        """Silence counts from now on."""
        self._paused = False
        self._since = self._loop.time()

    def _look(self) -> None:
        now = self._loop.time()
        due = self._since + self._every_s
        if self._paused or self._beating is not None:
            due = now + self._every_s
        elif now + TIMER_SLACK_S >= due:
            due = now + self._every_s
            self._beating = self._loop.create_task(self._send())
            self._beating.add_done_callback(self._beaten)
        self._timer = self._loop.call_at(due, self._look)

    async def _send(self) -> None:
        await self._beat()

    def _beaten(self, beating: asyncio.Task[None]) -> None:
        if self._paused or beating is not self._beating:
            return  # whoever waits for it learns it there
        self._beating, self._since = None, self._loop.time()
        if not beating.cancelled() and (failure := beating.exception()) is not None:
            self._failure = failure
            self._owner.cancel()


async def until_over(task: asyncio.Future[Any]) -> None:
    """Waits until it is, though it may take a step of the engine; cancelled meanwhile, it is so afterwards."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    # A cancelled task holds how it was cancelled, and with that every frame of the response, and one of these holds
    # the task (`asyncio.timeout`): its cache would stay until cycles are collected. Asked, it lets go.
    with suppress(asyncio.CancelledError, Exception):
        task.result()
    if cancelled:
        raise asyncio.CancelledError
