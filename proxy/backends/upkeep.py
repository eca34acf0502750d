"""Keeps a device's thread at work: replaces one that has died, once, and tells when a step does not return.

Must not: know what is loaded or stepped, or end a thread that hangs (a device cannot be interrupted).
Invariant: while there is trouble every request is refused at once with what it is and what can be done; nobody is
served by an engine whose thread has died.

One replacement an hour: an engine that dies again on fresh state dies of something that a restart does not mend.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import structlog

from proxy.backends.errors import EngineLost, Trouble
from proxy.backends.waiters import Waiters
from proxy.backends.worker import DeviceWorker, WorkerDied

Turn = TypeVar("Turn")
Report = TypeVar("Report")
T = TypeVar("T")
RESTART_AFTER_S = 3600.0
STUCK_S = 330.0
"""A step or a prompt's chunk that takes longer is taken for stuck: a little more than a response waits for one."""
STOP_S = 30.0
"""How long a shutdown waits for what runs."""
GONE_S, GONE_EVERY_S = 10.0, 0.05
"""How long a fresh engine waits for the memory of the dead one, and how often it looks."""
log = structlog.get_logger()


class Upkeep(Generic[Turn, Report]):
    """step: see DeviceWorker. reload: loads a fresh engine with `load`, after the old one's thread has died; what it
    raises is why there is none."""

    def __init__(
        self,
        step: Callable[[Sequence[Turn]], Sequence[Report | Exception]],
        reload: Callable[[], Awaitable[None]],
        stuck_s: float = STUCK_S,
    ) -> None:
        self._step, self._reload, self._stuck_s = step, reload, stuck_s
        self._waiters = Waiters()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._restarted_at: float | None = None
        self._steps_before = 0
        self._worker = self._new_worker()

    @property
    def steps(self) -> int:
        """That were made, each turn's counted."""
        return self._steps_before + self._worker.steps

    @property
    def trouble(self) -> Trouble | None:
        """Why nothing can be generated now."""
        return self._waiters.trouble

    async def load(self, call: Callable[..., T], *arguments: Any) -> T:
        """Runs a call on the thread, whatever it takes and whatever trouble there is."""
        self._loop = asyncio.get_running_loop()
        return await asyncio.wrap_future(self._worker.call(call, *arguments))

    async def until_gone(self, used: weakref.ref[Any] | None) -> None:
        """Waits, not for ever, until nothing holds any more what a dead thread has used: responses that hear of its
        end, and the frames in which it ended."""
        for _ in range(round(GONE_S / GONE_EVERY_S)):
            await self.load(gc.collect)  # an exception and its frames are a cycle
            if used is None or used() is None:
                return
            await asyncio.sleep(GONE_EVERY_S)
        log.warning("engine.held", seconds=GONE_S)

    def watch(self) -> None:
        """From now on something that does not return is trouble."""
        self._keep(self._watch())

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Runs a call on the thread. Raises what it raises, and EngineLost."""
        try:
            return await self._waiters.wait(lambda: self._worker.call(call, *arguments))
        except WorkerDied as died:
            raise EngineLost(self._trouble_of(died)) from died

    async def step(self, turn: Turn, goes_on: Callable[[Report], bool] | None = None) -> Report:
        """The turn's next step, together with those of other turns. goes_on: see `DeviceWorker.step`. Raises as `run`
        does."""
        try:
            return await self._waiters.wait(lambda: self._worker.step(turn, goes_on))
        except WorkerDied as died:
            raise EngineLost(self._trouble_of(died)) from died

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Runs a call on the thread, behind what is queued there; nobody waits for it."""
        with contextlib.suppress(RuntimeError):  # the worker is shut down, or dead: then there is nothing to tidy up
            self._worker.call(call, *arguments)

    def forget(self, turn: Turn) -> None:
        """No step waits for this turn any more."""
        self._worker.forget(turn)

    async def stop(self) -> None:
        """Waits for what runs, but not for ever, and ends the thread."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._worker.stop, STOP_S)

    def _new_worker(self) -> DeviceWorker[Turn, Report]:
        return DeviceWorker(self._step, "engine", died=self._heard)

    def _heard(self, death: WorkerDied) -> None:
        """On the dying thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._died, death)

    def _died(self, death: WorkerDied) -> None:
        trouble = self._new_trouble(death)  # a replacement may die before anybody has heard of the first death
        log.error("engine.died", cause=repr(death.__cause__), restarts=not trouble.final, exc_info=death.__cause__)
        self._waiters.give_up(trouble)
        if not trouble.final:
            self._restarted_at = asyncio.get_running_loop().time()
            self._keep(self._restart())

    def _trouble_of(self, death: WorkerDied) -> Trouble:
        known = self._waiters.trouble
        return known if known is not None and known.reason == "died" else self._new_trouble(death)

    def _new_trouble(self, death: WorkerDied) -> Trouble:
        now, last = asyncio.get_running_loop().time(), self._restarted_at
        if last is not None and now - last < RESTART_AFTER_S:
            return Trouble("died", f"{death}, again; restart the server, its log says what happened", final=True)
        return Trouble("died", f"{death}; a fresh engine is being loaded, send the request again in a moment")

    async def _restart(self) -> None:
        self._steps_before += self._worker.steps
        self._worker = self._new_worker()
        try:
            await self._reload()
        except Exception as error:
            log.exception("engine.not_restarted")
            why = f"the engine's worker died and no fresh engine could be loaded ({type(error).__name__})"
            self._waiters.give_up(Trouble("died", f"{why}; restart the server", final=True))
        else:
            log.info("engine.restarted")
            self._waiters.recover()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(self._stuck_s / 4, 10.0))
            busy, trouble = self._worker.busy_s, self._waiters.trouble
            if trouble is None and busy > self._stuck_s:
                log.error("engine.stuck", seconds=round(busy))
                why = f"the engine has not returned from a step for {busy:.0f} s"
                self._waiters.give_up(Trouble("stuck", f"{why}; if it stays so, restart the server"))
            elif trouble is not None and trouble.reason == "stuck" and busy <= self._stuck_s:
                log.info("engine.returned")
                self._waiters.recover()

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
