"""Signs of life: when they are sent, when they are not, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from proxy.server.heartbeat import Heartbeat, until_over
from tests.virtual_time import run

SOON = 0.001


class Beats:
    """Counts them. failing: what the next one raises; hold: what it waits for."""

    def __init__(self) -> None:
        self.count = 0
        self.over = 0
        self.failing: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.came = asyncio.Event()

    async def __call__(self) -> None:
        self.count += 1
        self.came.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.failing is not None:
                raise self.failing
        finally:
            self.over += 1


async def timed(silences: list[float], writes_s: float = 0.0) -> list[float]:
    """When beats came, 10 s of silence apart: of an owner whose events take so long, and who writes in between."""
    loop, times = asyncio.get_running_loop(), list[float]()

    async def beat() -> None:
        times.append(round(loop.time(), 3))

    async with Heartbeat(10, beat) as heart:
        for silence in silences:
            await asyncio.sleep(silence)
            await heart.pause()
            await asyncio.sleep(writes_s)
            heart.resume()
    await asyncio.sleep(100)
    return times


def test_silence_is_broken_again_and_again() -> None:
    assert run(timed([35])) == [10, 20, 30]


def test_none_while_events_come_in_time_and_none_afterwards() -> None:
    assert run(timed([0.5] * 100)) == []


def test_silence_counts_from_the_last_event() -> None:
    assert run(timed([9, 9, 12, 9])) == [28]


def test_none_while_the_owner_writes() -> None:
    assert run(timed([1, 1, 12], writes_s=45)) == [102]


async def test_none_begins_while_another_is_under_way() -> None:
    beats = Beats()
    beats.hold = asyncio.Event()
    async with Heartbeat(SOON, beats):
        await beats.came.wait()
        await asyncio.sleep(20 * SOON)
        beats.hold.set()
    assert (beats.count, beats.over) == (1, 1)


def test_no_timer_is_left() -> None:
    async def left() -> int:
        await timed([35])
        return len(getattr(asyncio.get_running_loop(), "_scheduled"))  # noqa: B009 - asyncio's own list of timers

    assert run(left()) == 0


async def test_one_under_way_is_over_before_the_owner_goes_on() -> None:
    beats = Beats()
    beats.hold = asyncio.Event()
    async with Heartbeat(SOON, beats) as heart:
        await beats.came.wait()
        asyncio.get_running_loop().call_later(10 * SOON, beats.hold.set)
        await heart.pause()
        assert (beats.count, beats.over) == (1, 1)


async def test_one_under_way_is_over_when_the_owner_ends() -> None:
    beats = Beats()
    beats.hold = asyncio.Event()
    async with Heartbeat(SOON, beats):
        await beats.came.wait()
        asyncio.get_running_loop().call_later(10 * SOON, beats.hold.set)
    assert (beats.count, beats.over) == (1, 1)


async def test_a_failing_one_ends_the_owners_wait() -> None:
    beats = Beats()
    beats.failing = ConnectionError("gone")
    ended = asyncio.Event()
    with pytest.raises(ConnectionError, match="gone"):
        async with Heartbeat(SOON, beats):
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
    assert ended.is_set()
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_a_failing_one_that_the_owner_waits_for_is_raised_there() -> None:
    beats = Beats()
    beats.failing, beats.hold = ConnectionError("gone"), asyncio.Event()
    async with Heartbeat(SOON, beats) as heart:
        await beats.came.wait()
        asyncio.get_running_loop().call_later(10 * SOON, beats.hold.set)
        with pytest.raises(ConnectionError, match="gone"):
            await heart.pause()
        await asyncio.sleep(0)  # nobody cancels the owner afterwards
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_whoever_cancels_the_owner_wins_and_the_one_under_way_is_cancelled() -> None:
    beats = Beats()
    beats.hold = asyncio.Event()

    async def owner() -> None:
        async with Heartbeat(SOON, beats):
            await asyncio.Event().wait()

    task = asyncio.create_task(owner())
    await beats.came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (beats.count, beats.over) == (1, 1)


async def test_cancelled_as_a_beat_fails_the_owner_is_cancelled() -> None:
    beats = Beats()

    async def owner() -> None:
        async with Heartbeat(SOON, beats):
            await asyncio.Event().wait()

    task = asyncio.create_task(owner())
    beats.failing, beats.hold = ConnectionError("gone"), asyncio.Event()
    await beats.came.wait()
    beats.hold.set()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_nothing_of_it_stays_in_memory() -> None:
    beats = Beats()
    beats.failing = ConnectionError("gone")

    class Cache:
        pass

    async def owner() -> weakref.ref[Cache]:
        cache = Cache()
        found = weakref.ref(cache)
        try:
            async with Heartbeat(SOON, beats):
                await asyncio.Event().wait()
        except ConnectionError:
            return found
        raise AssertionError("it did not fail")

    gc.disable()
    try:
        found = await owner()
        beats.failing = None
        await asyncio.sleep(0)
        assert found() is None
    finally:
        gc.enable()


async def test_waiting_until_something_is_over_though_cancelled() -> None:
    goes_on, cancelled = asyncio.Event(), 0

    async def stubborn() -> None:
        nonlocal cancelled
        while not goes_on.is_set():
            try:
                await goes_on.wait()
            except asyncio.CancelledError:
                cancelled += 1

    task = asyncio.create_task(stubborn())
    waiting = asyncio.create_task(until_over(task))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task.done()
