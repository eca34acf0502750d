"""An event loop whose clock jumps to the next timer, so that tests of minutes take milliseconds.

Must not: be used where a thread or a socket takes real time: nothing waits for those.
Invariant: time passes only while nothing is ready to run.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Never waits; tells how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing is ready and no timer runs: the test hangs")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._turned = _Selector()
        super().__init__(self._turned)

    def time(self) -> float:
        return self._turned.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, on a loop that starts at 0 s."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
