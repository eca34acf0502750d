"""The device's thread: steps gather, calls and steps take turns, nobody is waited for who does not come."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest

from proxy.backends.worker import DeviceWorker, WorkerDied

Report = tuple[str, int]
A, B = "a", "b"  # turns are told apart by identity


class Device:
    """Records what ran together; can be held, so that a test decides what is waiting meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.log: list[str] = []
        self.held = threading.Event()
        self.release = threading.Event()

    def step(self, turns: Sequence[str]) -> list[Report | Exception]:
        self.batches.append(list(turns))
        self.log.append("step")
        if "broken device" in turns:
            raise RuntimeError("device lost")
        return [ValueError("of this turn") if turn == "bad" else (turn, len(self.batches)) for turn in turns]

    def hold(self) -> None:
        self.held.set()
        assert self.release.wait(20)

    def note(self, text: str) -> str:
        self.log.append(text)
        return text


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def worker(device: Device) -> Iterator[DeviceWorker[str, Report]]:
    made = DeviceWorker[str, Report](device.step, "test", linger_s=0.0)
    yield made
    device.release.set()
    made.stop()


def patient(device: Device) -> DeviceWorker[str, Report]:
    return DeviceWorker[str, Report](device.step, "test", linger_s=20.0)


def test_steps_that_wait_run_together(device: Device, worker: DeviceWorker[str, Report]) -> None:
    holding = worker.call(device.hold)
    assert device.held.wait(20)
    steps = [worker.step(name) for name in "abc"]
    device.release.set()
    assert [step.result(20) for step in steps] == [("a", 1), ("b", 1), ("c", 1)]
    assert holding.result(20) is None
    assert device.batches == [["a", "b", "c"]]


def test_calls_and_steps_take_turns(device: Device, worker: DeviceWorker[str, Report]) -> None:
    """A prompt of many chunks and a response in the making: neither waits for the other's end."""
    worker.call(device.hold)
    assert device.held.wait(20)
    calls = [worker.call(device.note, f"call {i}") for i in range(3)]
    first = worker.step(A)
    device.release.set()
    first.result(20)
    assert [call.result(20) for call in calls] == ["call 0", "call 1", "call 2"]
    assert device.log == ["step", "call 0", "call 1", "call 2"]


def test_a_step_waits_for_those_who_stepped_last_time(device: Device) -> None:
    worker = patient(device)
    worker.call(device.hold)
    assert device.held.wait(20)
    steps = [worker.step(name) for name in (A, B)]
    device.release.set()
    for step in steps:
        step.result(20)
    early = worker.step(A)
    assert not early.done()
    late = worker.step(B)
    assert [early.result(20), late.result(20)] == [("a", 2), ("b", 2)]
    worker.stop()


@pytest.mark.parametrize("how", ["forgotten", "a call comes"])
def test_nobody_waits_for_a_turn_that_does_not_ask(device: Device, how: str) -> None:
    worker = patient(device)
    worker.call(device.hold)
    assert device.held.wait(20)
    steps = [worker.step(name) for name in (A, B)]
    device.release.set()
    for step in steps:
        step.result(20)
    alone = worker.step(A)
    if how == "forgotten":
        worker.forget(B)
    else:
        worker.call(device.note, "prefill")
    assert alone.result(10) == ("a", 2)
    assert worker.step(A).result(10) == ("a", 3)  # b is not expected any more
    worker.stop()


def test_an_error_belongs_to_its_turn(device: Device, worker: DeviceWorker[str, Report]) -> None:
    worker.call(device.hold)
    assert device.held.wait(20)
    good, bad = worker.step("good"), worker.step("bad")
    device.release.set()
    assert good.result(20) == ("good", 1)
    with pytest.raises(ValueError, match="of this turn"):
        bad.result(20)
    with pytest.raises(RuntimeError, match="device lost"):
        worker.step("broken device").result(20)
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 // 0).result(20)
    assert worker.step("again").result(20) == ("again", 3)


def test_what_is_cancelled_does_not_run(device: Device, worker: DeviceWorker[str, Report]) -> None:
    worker.call(device.hold)
    assert device.held.wait(20)
    gone, stays = worker.step("gone"), worker.step("stays")
    call = worker.call(device.note, "gone too")
    assert gone.cancel()
    assert call.cancel()
    device.release.set()
    assert stays.result(20) == ("stays", 1)
    assert device.batches == [["stays"]]
    assert device.log == ["step"]


def test_stopping_ends_what_runs_and_cancels_what_waits(device: Device) -> None:
    worker = DeviceWorker[str, Report](device.step, "test")
    running = worker.call(device.hold)
    assert device.held.wait(20)
    waiting, step = worker.call(device.note, "never"), worker.step("never")
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    device.release.set()
    stopping.join(20)
    assert running.result(0) is None
    for future in (waiting, step):
        with pytest.raises(CancelledError):
            future.result(0)
    worker.stop()
    for refused in (lambda: worker.call(device.note, "no"), lambda: worker.step("no")):
        with pytest.raises(RuntimeError, match="stopped"):
            refused()


# Steps that go on by themselves


def until(count: int, seen: list[Report]) -> Callable[[Report], bool]:
    def goes_on(report: Report) -> bool:
        seen.append(report)
        return len(seen) < count

    return goes_on


def test_a_step_goes_on_until_somebody_must_hear_of_it(device: Device, worker: DeviceWorker[str, Report]) -> None:
    seen: list[Report] = []
    assert worker.step(A, until(4, seen)).result(20) == ("a", 4)
    assert seen == [("a", number) for number in (1, 2, 3, 4)]
    assert worker.steps == 4


def test_others_step_in_between(device: Device, worker: DeviceWorker[str, Report]) -> None:
    worker.call(device.hold)
    assert device.held.wait(20)
    going, other = worker.step(A, until(3, [])), worker.step(B)
    device.release.set()
    assert other.result(20) == ("b", 1)
    assert going.result(20) == ("a", 3)
    assert device.batches == [["a", "b"], ["a"], ["a"]]


def test_no_step_goes_on_while_a_call_waits(device: Device) -> None:
    """A prompt's chunk takes a while, and what was said would be told behind it."""

    def step(turns: Sequence[str]) -> list[Report | Exception]:
        if len(device.batches) == 2:
            worker.call(device.note, "prefill")
        return device.step(turns)

    worker, seen = DeviceWorker[str, Report](step, "test", linger_s=0.0), list[Report]()
    assert worker.step(A, until(9, seen)).result(20) == ("a", 3)
    assert seen == [("a", 1), ("a", 2)]
    assert worker.step(A).result(20) == ("a", 4)
    assert device.log == ["step", "step", "step", "prefill", "step"]
    worker.stop()


def test_who_is_forgotten_during_a_step_goes_on_no_more(device: Device, worker: DeviceWorker[str, Report]) -> None:
    held, release = threading.Event(), threading.Event()

    def goes_on(_: Report) -> bool:
        held.set()
        assert release.wait(20)
        return True

    going = worker.step(A, goes_on)
    assert held.wait(20)
    worker.forget(A)
    release.set()
    with pytest.raises(CancelledError):
        going.result(20)
    assert worker.step(B).result(20) == ("b", 2)
    assert device.batches == [["a"], ["b"]]


def waits_to_go_on(device: Device, worker: DeviceWorker[str, Report]) -> Future[Report]:
    """A's step, made and to be made again, while B is lingered for."""
    worker.call(device.hold)
    assert device.held.wait(20)
    going, other = worker.step(A, lambda _: True), worker.step(B)
    device.release.set()
    other.result(20)
    return going


def test_who_is_forgotten_between_two_steps_goes_on_no_more(device: Device) -> None:
    worker = patient(device)
    going = waits_to_go_on(device, worker)
    worker.forget(A)
    with pytest.raises(CancelledError):
        going.result(10)
    assert worker.step(B).result(10) == ("b", 2)
    assert device.batches == [["a", "b"], ["b"]]
    worker.stop()


def test_who_is_forgotten_while_it_waits_steps_no_more(device: Device, worker: DeviceWorker[str, Report]) -> None:
    """Its waiter was told that the device is in trouble, and is gone; its turn is closed behind what hangs."""
    worker.call(device.hold)
    assert device.held.wait(20)
    gone, stays = worker.step(A, until(3, [])), worker.step(B)
    worker.forget(A)
    closing = worker.call(device.note, "close")
    device.release.set()
    assert closing.result(20) == "close"
    assert stays.result(20) == ("b", 1)
    with pytest.raises(CancelledError):
        gone.result(20)
    assert device.batches == [["b"]]


def test_what_was_said_does_not_wait_for_a_call(device: Device) -> None:
    """One that comes between a step's end and the next step: a prompt's chunk may take a while."""

    def goes_on(_: Report) -> bool:
        if len(device.batches) == 1:
            worker.call(device.note, "prefill")
        return len(device.batches) < 4

    worker = DeviceWorker[str, Report](device.step, "test", linger_s=0.0)
    going = worker.step(A, goes_on)
    assert going.result(20) == ("a", 2)
    worker.call(device.note, "behind").result(20)
    assert device.log == ["step", "step", "prefill", "behind"]
    worker.stop()


@pytest.mark.parametrize("why", ["the step fails", "the question fails"])
def test_an_error_ends_what_goes_on(device: Device, worker: DeviceWorker[str, Report], why: str) -> None:
    def goes_on(_: Report) -> bool:
        if why == "the question fails":
            raise ValueError("of this turn")
        return True

    with pytest.raises(ValueError, match="of this turn"):
        worker.step("bad" if why == "the step fails" else A, goes_on).result(20)
    assert worker.step(B).result(20) == ("b", 2)


def test_what_goes_on_ends_when_the_thread_is_stopped(device: Device) -> None:
    worker = patient(device)
    going = waits_to_go_on(device, worker)
    worker.stop()
    with pytest.raises(CancelledError):
        going.result(0)
    assert device.batches == [["a", "b"]]


def test_what_goes_on_ends_when_the_thread_dies(device: Device) -> None:
    """A is to be made again when B's result is found to be missing."""
    worker = DeviceWorker[str, Report](lambda turns: device.step(turns)[:1], "test", linger_s=0.0)
    worker.call(device.hold)
    assert device.held.wait(20)
    steps = [worker.step(A, lambda _: True), worker.step(B)]
    device.release.set()
    for each in steps:
        with pytest.raises(WorkerDied):
            each.result(20)
    assert device.batches == [["a", "b"]]


class Ends(BaseException):
    """Nothing that handles errors handles this."""


@pytest.mark.parametrize("how", ["step", "call", "too few results"])
def test_a_thread_that_dies_leaves_nobody_waiting(device: Device, how: str) -> None:
    deaths: list[WorkerDied] = []
    told_first: list[bool] = []

    def step(turns: Sequence[str]) -> list[Report | Exception]:
        if how == "step":
            raise Ends
        return []

    def end() -> None:
        raise Ends

    def died(death: WorkerDied) -> None:
        deaths.append(death)
        told_first.append(not any(future.done() for future in futures))

    worker = DeviceWorker[str, Report](step, "test", linger_s=0.0, died=died)
    worker.call(device.hold)
    assert device.held.wait(20)
    fatal = [worker.call(end)] if how == "call" else [worker.step(A), worker.step(B)]
    futures = [*fatal, worker.call(device.note, "never")]
    gone = worker.call(device.note, "gone")
    assert gone.cancel()
    device.release.set()
    for future in futures:
        with pytest.raises(WorkerDied) as raised:
            future.result(20)
        assert isinstance(raised.value.__cause__, ValueError if how == "too few results" else Ends)
    worker.stop(20)
    assert len(deaths) == 1
    assert told_first == [True], "who hears that its call failed asks at once how the device is"
    assert device.log == []
    for refused in (lambda: worker.call(device.note, "no"), lambda: worker.step(A)):
        with pytest.raises(WorkerDied):
            refused()


def test_what_hangs_is_seen_and_not_waited_for(device: Device, worker: DeviceWorker[str, Report]) -> None:
    assert worker.busy_s == 0
    hanging = worker.call(device.hold)
    assert device.held.wait(20)
    assert worker.busy_s > 0
    worker.stop(0.01)
    assert not hanging.done()
    device.release.set()
    hanging.result(20)


@pytest.mark.parametrize("last", ["step", "call"])
def test_a_thread_that_waits_keeps_nothing_of_what_it_did(last: str) -> None:
    """A turn may own gigabytes."""

    class Owner:
        pass

    worker = DeviceWorker[Owner, str](lambda turns: ["done" for _ in turns], "test", linger_s=0.0)
    try:
        turn = Owner()
        asked: Future[object] = worker.step(turn) if last == "step" else worker.call(id, turn)
        asked.result(20)
        worker.forget(turn)
        gone = threading.Event()
        weakref.finalize(turn, gone.set)
        del turn, asked
        assert gone.wait(2)
    finally:
        worker.stop()


def test_an_error_about_a_step_keeps_no_turn() -> None:
    """A turn may own gigabytes, and a cycle with the error's frame would be collected whenever."""

    class Owner:
        pass

    def goes_on(_: str) -> bool:
        raise ValueError("of this turn")

    worker = DeviceWorker[Owner, str](lambda turns: ["done" for _ in turns], "test", linger_s=0.0)
    gc.disable()
    try:
        turn = Owner()
        asked = worker.step(turn, goes_on)
        error = asked.exception(20)
        assert isinstance(error, ValueError)
        worker.forget(turn)
        gone = threading.Event()
        weakref.finalize(turn, gone.set)
        del turn, asked
        assert gone.wait(2)
    finally:
        gc.enable()
        worker.stop()
