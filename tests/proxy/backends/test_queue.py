"""Places and the queue for them: in order, bounded, and nothing is lost when somebody gives up."""

from __future__ import annotations

import asyncio

import pytest

from proxy.backends.errors import Overloaded
from proxy.backends.queue import TurnQueue


async def entered(queue: TurnQueue, log: list[int], name: int) -> None:
    await queue.enter()
    log.append(name)


async def test_first_come_first_served() -> None:
    queue, log = TurnQueue(1, 8), []
    await queue.enter()
    tasks = []
    for name in range(3):
        tasks.append(asyncio.create_task(entered(queue, log, name)))
        await asyncio.sleep(0)
    assert (queue.running, queue.waiting, log) == (1, 3, [])
    for count in range(1, 4):
        queue.leave()
        await asyncio.sleep(0)
        assert log == list(range(count))
    queue.leave()
    await asyncio.gather(*tasks)
    assert (queue.running, queue.waiting) == (0, 0)


async def test_a_newcomer_does_not_overtake() -> None:
    queue, log = TurnQueue(1, 8), []
    await queue.enter()
    waiting = asyncio.create_task(entered(queue, log, 1))
    await asyncio.sleep(0)
    queue.leave()  # the place belongs to the one who waits, though it has not run yet
    newcomer = asyncio.create_task(entered(queue, log, 2))
    await asyncio.sleep(0.01)
    assert log == [1]
    queue.leave()
    await asyncio.gather(waiting, newcomer)
    assert log == [1, 2]


async def test_one_too_many_is_told_at_once() -> None:
    queue = TurnQueue(1, 0)
    await queue.enter()
    with pytest.raises(Overloaded, match="1 responses are in the making and 0 requests wait"):
        await queue.enter()
    queue.leave()
    await queue.enter()


@pytest.mark.parametrize("when", ["waiting", "handed over", "gone and met"])
async def test_who_gives_up_leaves_no_trace(when: str) -> None:
    queue, log = TurnQueue(1, 8), []
    await queue.enter()
    first = asyncio.create_task(entered(queue, log, 1))
    second = asyncio.create_task(entered(queue, log, 2))
    await asyncio.sleep(0)
    if when == "handed over":
        queue.leave()
        first.cancel()
    elif when == "gone and met":
        first.cancel()
        queue.leave()
    else:
        first.cancel()
        await asyncio.sleep(0)
        queue.leave()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 5)
    assert log == [2]
    queue.leave()
    assert (queue.running, queue.waiting) == (0, 0)


async def test_it_is_idle_while_nobody_runs_or_waits() -> None:
    queue = TurnQueue(1, 1)
    assert queue.is_idle
    await queue.enter()
    assert not queue.is_idle
    queue.leave()
    assert queue.is_idle
