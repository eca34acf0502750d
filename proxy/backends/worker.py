"""One thread that owns a device: steps of several turns are gathered, everything else runs in between, in order.

Must not: know what a turn or a step is, or touch asyncio; whoever waits gets a `concurrent.futures.Future`.
Invariant: calls and steps take turns, so a long prompt (one call per chunk) delays the others by a chunk at most, and
they delay it by a step. Nobody waits for a turn that does not ask: a slow reader costs the others `linger_s`, once.
A step that goes on by itself takes its turn like any other, and does so while nothing but steps waits: what it gave
before would be told late. Whoever forgets its turn ends it.
Nobody waits for a thread that has ended either: whatever ends it, all futures get `WorkerDied` at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Turn = TypeVar("Turn")
Report = TypeVar("Report")
T = TypeVar("T")


class WorkerDied(RuntimeError):
    """The thread has ended, not because it was told to. `__cause__`: what ended it."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"the engine's worker died ({type(cause).__name__})")
        self.__cause__ = cause


@dataclass(slots=True, eq=False)
class _Step(Generic[Turn, Report]):
    """Asked for. goes_on: see `DeviceWorker.step`; begun: it was made, and is to be made again."""

    future: Future[Report]
    turn: Turn
    goes_on: Callable[[Report], bool] | None
    begun: bool = False
    dropped: bool = False

    def begin(self) -> bool:
        """Whether it is to be made; it cannot be cancelled from then on."""
        if not self.begun:
            self.begun = self.future.set_running_or_notify_cancel()
        return self.begun

    def drop(self) -> None:
        """Nobody asks for it any more."""
        self.dropped = True
        if self.begun:
            self.future.set_exception(CancelledError())
        else:
            self.future.cancel()


class DeviceWorker(Generic[Turn, Report]):
    """step: one step of each turn given; a result may be an exception, which is that turn's alone.

    linger_s: how long a step waits for turns of the step before that have not asked again yet; their clients read what
    they got at that moment, and a common step is cheaper than two. died: called on the dying thread, after all futures
    have failed; an ordinary exception of a call or step is its caller's alone and ends nothing. steps: that were made,
    each turn's counted.
    """

    def __init__(
        self,
        step: Callable[[Sequence[Turn]], Sequence[Report | Exception]],
        name: str,
        linger_s: float = 0.002,
        died: Callable[[WorkerDied], None] | None = None,
    ) -> None:
        self._step = step
        self._linger_s = linger_s
        self.steps = 0
        self._ready = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._steps: deque[_Step[Turn, Report]] = deque()
        self._batch: list[_Step[Turn, Report]] = []
        self._expected: list[Turn] = []
        self._stopping = False
        self._told = died
        self._death: WorkerDied | None = None
        self._running: list[Future[Any]] = []
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Runs a function on the thread, behind those that wait. Raises RuntimeError after `stop`, WorkerDied
        after the thread's own end."""
        future: Future[T] = Future()
        with self._ready:
            self._refuse_if_stopping()
            self._calls.append((future, lambda: function(*arguments)))
            self._ready.notify()
        return future

    def step(self, turn: Turn, goes_on: Callable[[Report], bool] | None = None) -> Future[Report]:
        """The next step of a turn, together with those of other turns. Raises as `call` does.

        goes_on: asked on the thread about each step unless a call waits; while it says yes the turn's next one is made
        at once, and only the last is the result. Without it, whoever awaits each step costs the device two changes of
        threads.
        """
        future: Future[Report] = Future()
        with self._ready:
            self._refuse_if_stopping()
            self._steps.append(_Step(future, turn, goes_on))
            self._ready.notify()
        return future

    def forget(self, turn: Turn) -> None:
        """The turn will not ask again: no step waits for it, none of its own is made any more, also where it was asked
        for or goes on by itself."""
        with self._ready:
            self._expected = [expected for expected in self._expected if expected is not turn]
            for step in self._batch:
                step.dropped = step.dropped or step.turn is turn
            for step in [step for step in self._steps if step.turn is turn]:
                self._steps.remove(step)
                step.drop()
            self._ready.notify()

    def stop(self, patience_s: float | None = None) -> None:
        """Ends the thread after what runs at the moment; what waits is cancelled. Idempotent; waits for the end, but no
        longer than `patience_s` (what hangs then ends with the process)."""
        with self._ready:
            self._stopping = True
            for future, _ in self._calls:
                future.cancel()
            for step in self._steps:
                step.drop()
            self._steps.clear()
            self._ready.notify()
        self._thread.join(patience_s)

    @property
    def busy_s(self) -> float:
        """Seconds for which what runs now has been running; 0 while nothing does."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _refuse_if_stopping(self) -> None:
        if self._death is not None:
            raise WorkerDied(self._death.__cause__ or self._death)
        if self._stopping:
            raise RuntimeError("the worker is stopped")

    def _run(self) -> None:
        try:
            self._take_turns()
        except BaseException as error:  # whatever it is: nobody may wait for this thread any more
            self._bury(WorkerDied(error))

    def _bury(self, death: WorkerDied) -> None:
        with self._ready:
            self._death, self._since = death, None
            begun = [step.future for step in self._steps if step.begun]
            waiting = [future for future, _ in self._calls]
            waiting += [step.future for step in self._steps if not step.begun]
            self._calls.clear()
            self._steps.clear()
            self._running = [*self._running, *begun]
        try:
            if self._told is not None:  # first: who hears that its own call failed may ask at once how the device is
                self._told(death)
        finally:
            for future in waiting:
                if future.set_running_or_notify_cancel():
                    self._running.append(future)
            for future in self._running:
                if not future.done():
                    future.set_exception(death)

    def _take_turns(self) -> None:
        last_was_call = False
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._stopping or self._calls or self._steps)
                if self._stopping:
                    return
                take_call = bool(self._calls) and not self._are_first(last_was_call)
                call = self._calls.popleft() if take_call else None
                batch = [] if take_call else self._gather(0.0 if last_was_call else self._linger_s)
            last_was_call = take_call
            self._since = time.monotonic()
            if call is not None:
                self._run_call(*call)
            elif batch:
                self._run_steps(batch)
            self._running, self._since, self._batch = [], None, []
            del call, batch  # what waits for the next one must not keep a turn alive

    def _are_first(self, last_was_call: bool) -> bool:
        """Do the waiting steps come before a waiting call? Those that go on by themselves, too, once: what they gave
        before is told then."""
        return bool(self._steps) and (last_was_call or any(step.begun for step in self._steps))

    def _gather(self, linger_s: float) -> list[_Step[Turn, Report]]:
        """All waiting steps, after a moment's patience for turns that stepped last time.

        None is left behind a call: whoever wanted to come had its time.
        """
        until = time.monotonic() + linger_s
        while not self._stopping and not self._calls and self._are_missing():
            left = until - time.monotonic()
            if left <= 0 or not self._ready.wait(left):
                break
        waiting, self._steps = self._steps, deque()
        batch = self._batch = [step for step in waiting if step.begin()]
        self._expected = [step.turn for step in batch]
        return batch

    def _are_missing(self) -> bool:
        here = {id(step.turn) for step in self._steps}
        return any(id(turn) not in here for turn in self._expected)

    def _run_steps(self, batch: list[_Step[Turn, Report]]) -> None:
        self._running = [step.future for step in batch]
        try:
            results = self._step([step.turn for step in batch])
        except Exception as error:
            for step in batch:
                step.future.set_exception(error)
            return
        self.steps += len(batch)
        for step, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                step.future.set_exception(result)
            elif self._goes_on(step, result):
                with self._ready:
                    if step.dropped or self._stopping:
                        step.drop()
                    else:
                        self._steps.append(step)
        del batch, step, result, results  # the frames of an error hold this one, and would hold every turn by it

    def _goes_on(self, step: _Step[Turn, Report], result: Report) -> bool:
        """Whether the step is to be made again; else it is told."""
        try:
            if step.goes_on is not None and not self._calls and step.goes_on(result):
                return True
            step.future.set_result(result)
        except Exception as error:
            step.future.set_exception(error)
            del step  # the error holds this frame
        return False

    def _run_call(self, future: Future[Any], call: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        self._running = [future]
        try:
            result = call()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
