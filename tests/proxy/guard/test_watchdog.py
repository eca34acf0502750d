"""Waiting for steps that are late or lost, on a clock that is turned by hand."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence

import pytest

from detectors.finding import Finding
from detectors.stall import StallDetector, StallSettings
from proxy.guard.watchdog import Stalled, Watchdog
from tests.virtual_time import run


def first() -> int:
    return 0


async def watched(seconds: Sequence[float], gives_up: bool = True, reads_s: float = 0.0) -> list[str]:
    """Steps that take so long, one after the other, with a client that reads in between."""
    loop, told = asyncio.get_running_loop(), []

    def late(finding: Finding) -> None:
        told.append(f"{finding.grade.name} at {loop.time():.0f} s, token {finding.position}")

    watchdog, steps = Watchdog(gives_up), []

    def position() -> int:
        return len(steps)

    try:
        for each in seconds:
            steps.append(await watchdog.wait(asyncio.sleep(each, each), position, late))
            assert steps[-1] == each
            await asyncio.sleep(reads_s)
    except Stalled as stalled:
        told.append(f"{stalled.finding.grade.name} at {loop.time():.0f} s: {stalled}")
    return told


def test_steps_in_time_are_not_mentioned() -> None:
    assert run(watched([0.1] * 50)) == []


def test_a_late_step_is_told_once_and_awaited() -> None:
    assert run(watched([1, 1, 90, 1])) == ["FALLBACK at 32 s, token 2"]


def test_a_lost_step_is_given_up() -> None:
    assert run(watched([1, 1, 1e9])) == [
        "FALLBACK at 32 s, token 2",
        "ABORT at 302 s: the engine gave no token for 300 s; the response cannot be completed",
    ]


def test_an_observer_waits_for_ever() -> None:
    assert run(watched([1, 100_000, 1], gives_up=False)) == ["FALLBACK at 31 s, token 1"]


def test_the_first_step_has_more_time() -> None:
    assert run(watched([59])) == []
    assert [line.split(":")[0] for line in run(watched([700]))] == ["FALLBACK at 60 s, token 0", "ABORT at 600 s"]


def test_a_client_that_reads_slowly_is_no_stall() -> None:
    assert run(watched([0.1] * 20, reads_s=1000.0)) == []


def test_the_backends_own_timeout_is_its_own() -> None:
    async def fails() -> None:
        raise TimeoutError("of the backend")

    async def wait() -> None:
        await Watchdog(True).wait(fails(), first, lambda finding: None)

    with pytest.raises(TimeoutError, match="of the backend"):
        run(wait())


def test_a_client_that_leaves_cancels_the_step() -> None:
    async def leave() -> tuple[bool, list[Finding]]:
        step: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        told: list[Finding] = []
        waiting = asyncio.ensure_future(Watchdog(True).wait(step, first, told.append))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(1000)  # its timers are gone as well
        return step.cancelled() and waiting.cancelled(), told

    assert run(leave()) == (True, [])


@pytest.mark.parametrize("answer", ["a result", "an error"])
def test_a_step_that_answers_when_it_is_given_up_leaves_no_request_to_cancel(answer: str) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(1e9)
        except asyncio.CancelledError:
            if answer == "an error":
                raise ValueError(answer) from None
        return answer

    async def wait() -> tuple[str, int]:
        try:
            told = await Watchdog(True).wait(stubborn(), first, lambda finding: None)
        except ValueError as error:
            told = str(error)
        task = asyncio.current_task()
        assert task is not None
        return told, task.cancelling()

    assert run(wait()) == (answer, 0)


def test_who_fails_to_be_told_does_not_keep_the_step_from_being_given_up() -> None:
    def late(finding: Finding) -> None:
        raise OSError("the disk is full")

    async def wait() -> float:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        with pytest.raises(Stalled):
            await Watchdog(True).wait(asyncio.sleep(1e9), first, late)
        return round(loop.time())

    assert run(wait()) == 600


@pytest.mark.parametrize("earlier", [True, False])
def test_a_client_that_leaves_at_the_moment_of_giving_up_is_gone(earlier: bool) -> None:
    async def leave() -> tuple[bool, int]:
        loop = asyncio.get_running_loop()
        step: asyncio.Future[None] = loop.create_future()
        if earlier:
            loop.call_at(600.0, lambda: waiting.cancel())
        waiting = asyncio.ensure_future(Watchdog(True).wait(step, first, lambda finding: None))
        await asyncio.sleep(0)
        if not earlier:
            loop.call_at(600.0, waiting.cancel)
        await asyncio.gather(waiting, return_exceptions=True)
        return waiting.cancelled(), round(loop.time())

    assert run(leave()) == (True, 600)


def test_a_step_may_be_lost_before_it_is_late() -> None:
    settings = StallSettings(lost_first_s=5.0, lost_floor_s=5.0)

    async def wait() -> tuple[list[Finding], float]:
        told: list[Finding] = []
        with pytest.raises(Stalled):
            await Watchdog(True, StallDetector(settings)).wait(asyncio.sleep(1e9), first, told.append)
        return told, round(asyncio.get_running_loop().time())

    assert run(wait()) == ([], 5)


def test_the_timer_that_is_left_holds_nothing_of_the_response() -> None:
    class Response:
        def late(self, finding: Finding) -> None:
            raise AssertionError

    async def respond() -> bool:
        response, watchdog = Response(), Watchdog(True)
        for _ in range(3):
            await watchdog.wait(asyncio.sleep(1), first, response.late)
        gone = weakref.ref(response)
        del response
        alive = gone() is not None
        await asyncio.sleep(1000)
        return alive

    gc.disable()
    try:
        assert not run(respond())
    finally:
        gc.enable()
