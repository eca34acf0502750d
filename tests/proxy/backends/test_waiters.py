"""Whoever waits for the device is told when there is no use in it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from proxy.backends.errors import EngineLost, Trouble
from proxy.backends.waiters import Waiters

STUCK = Trouble("stuck", "it does not return")
pytestmark = pytest.mark.asyncio


async def waiting(waiters: Waiters, future: Future[int]) -> asyncio.Task[int]:
    task = asyncio.ensure_future(waiters.wait(lambda: future))
    await asyncio.sleep(0)
    return task


async def test_results_and_errors_arrive() -> None:
    waiters, good, bad = Waiters(), Future[int](), Future[int]()
    tasks = [await waiting(waiters, good), await waiting(waiters, bad)]
    good.set_result(3)
    bad.set_exception(ValueError("of the call"))
    assert await tasks[0] == 3
    with pytest.raises(ValueError, match="of the call"):
        await tasks[1]


async def test_all_are_given_up_at_once_and_what_comes_later_is_ignored() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    waiters, first, second = Waiters(), Future[int](), Future[int]()
    tasks = [await waiting(waiters, first), await waiting(waiters, second)]
    waiters.give_up(STUCK)
    for task in tasks:
        with pytest.raises(EngineLost, match="it does not return"):
            await task
    first.set_result(1)
    second.set_exception(ValueError)
    await asyncio.sleep(0.01)
    assert not first.cancelled()
    assert not complaints


async def test_nobody_begins_to_wait_while_there_is_trouble() -> None:
    waiters, asked = Waiters(), []
    waiters.give_up(STUCK)

    def ask() -> Future[int]:
        asked.append(1)
        return Future()

    with pytest.raises(EngineLost) as lost:
        await waiters.wait(ask)
    assert (lost.value.trouble, lost.value.kind, asked) == (STUCK, "overloaded", [])
    waiters.recover()
    done: Future[int] = Future()
    done.set_result(4)
    assert await waiters.wait(lambda: done) == 4


async def test_final_trouble_is_no_overload() -> None:
    assert EngineLost(Trouble("died", "again", final=True)).kind == "internal"


async def test_a_wait_that_is_cancelled_cancels_what_was_asked() -> None:
    waiters, future = Waiters(), Future[int]()
    task = await waiting(waiters, future)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert future.cancelled()


async def test_a_future_that_is_cancelled_cancels_the_wait() -> None:
    waiters, future = Waiters(), Future[int]()
    task = await waiting(waiters, future)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
