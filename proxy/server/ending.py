"""Ends all responses that still run when the server must stop, so that their clients are told.

Must not: decide when, or what a client is told. Invariant: a response that is ended here fails with `Overloaded`, as
one that may be asked for again; one that its client has left is cancelled, as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from proxy.backends.errors import ShuttingDown


class Ending:
    """Of one server."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._over = False

    def end(self) -> None:
        """Ends what runs, wherever it waits: for the engine, for its turn, or for its client to read."""
        self._over = True
        for task in self._running - self._ended:
            self._ended.add(task)
            task.cancel()

    @contextmanager
    def endable(self) -> Iterator[None]:
        """Around what the current task does for one client. Raises ShuttingDown when it is ended from outside."""
        task = asyncio.current_task()
        assert task is not None
        if self._over:
            raise ShuttingDown
        before = task.cancelling()
        self._running.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._ended and task.uncancel() <= before:
                raise ShuttingDown from None
            raise
        finally:
            self._running.discard(task)
            self._ended.discard(task)
