"""An event loop whose clock jumps to the next timer, so that tests of minutes take milliseconds.

Must not: be used where a thread takes longer than `patience_s` to answer: time would pass it by.
Invariant: time passes only while nothing is ready to run.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Waits at most `patience_s` of real time, and tells how long it would have waited."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self.now = 0.0
        self._patience_s = patience_s

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            if not self._patience_s:
                raise RuntimeError("nothing is ready and no timer runs: the test hangs")
            return super().select(60)
        ready = super().select(min(timeout, self._patience_s))
        if not ready:
            self.now += max(timeout, 0.0)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self, patience_s: float) -> None:
        self._turned = _Selector(patience_s)
        super().__init__(self._turned)

    def time(self) -> float:
        return self._turned.now


def run(work: Coroutine[Any, Any, T], patience_s: float = 0.0) -> T:
    """Like asyncio.run, on a loop that starts at 0 s. patience_s: real seconds that threads get before time jumps."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(patience_s)) as runner:
        return runner.run(work)
