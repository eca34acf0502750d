"""Waiting for a device's thread without waiting for ever: what is awaited can be given up for all at once.

Must not: know what is awaited, or touch the thread; a future that was given up may still be completed, unseen.
Invariant: whoever waits is told once, and nobody begins to wait while there is trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from proxy.backends.errors import EngineLost, Trouble

T = TypeVar("T")


class Waiters:
    """Of one event loop. trouble: why nobody should wait now; None = all is well."""

    def __init__(self) -> None:
        self.trouble: Trouble | None = None
        self._waiting: set[asyncio.Future[Any]] = set()

    async def wait(self, ask: Callable[[], Future[T]]) -> T:
        """The result of what `ask` asks for. Raises EngineLost if there is trouble, also if it comes meanwhile; a wait
        that is cancelled cancels the future too."""
        if self.trouble is not None:
            raise EngineLost(self.trouble)
        asked = ask()
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[T] = loop.create_future()

        def done(asked: Future[T]) -> None:  # an argument: it would hold itself, and its result, by its own callback
            if not loop.is_closed():
                loop.call_soon_threadsafe(_copy, asked, waiting)

        asked.add_done_callback(done)
        self._waiting.add(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            asked.cancel()
            raise
        finally:
            self._waiting.discard(waiting)

    def give_up(self, trouble: Trouble) -> None:
        """Nobody waits any more, until `recover`."""
        self.trouble = trouble
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(EngineLost(trouble))

    def recover(self) -> None:
        """The trouble is over."""
        self.trouble = None


def _copy(asked: Future[T], waiting: asyncio.Future[T]) -> None:
    if waiting.done():
        return
    if asked.cancelled():
        waiting.cancel()
    elif (error := asked.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(asked.result())
