"""Responses are ended from outside, wherever they wait; a client that leaves at the same time is no error."""

from __future__ import annotations

import asyncio

import pytest

from proxy.backends.errors import ShuttingDown
from proxy.server.ending import Ending


async def response(ending: Ending, log: list[str]) -> None:
    try:
        with ending.endable():
            log.append("begun")
            await asyncio.sleep(3600)
    except ShuttingDown:
        log.append("ended")
        await asyncio.sleep(0)  # there is time for a last word
        log.append("told")
    except asyncio.CancelledError:
        log.append("cancelled")
        raise


async def begun(ending: Ending, log: list[str]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(response(ending, log))
    await asyncio.sleep(0)
    return task


async def test_what_runs_is_ended_and_can_say_a_last_word() -> None:
    ending, log = Ending(), list[str]()
    tasks = [await begun(ending, log) for _ in range(2)]
    ending.end()
    ending.end()  # once more takes nothing away
    await asyncio.gather(*tasks)
    assert sorted(log) == ["begun", "begun", "ended", "ended", "told", "told"]
    assert not any(task.cancelling() for task in tasks)


async def test_a_client_that_leaves_is_a_client_that_leaves() -> None:
    ending, log = Ending(), list[str]()
    task = await begun(ending, log)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["begun", "cancelled"]
    ending.end()


async def test_both_at_once_is_one_who_leaves() -> None:
    for first in ("server", "client"):
        ending, log = Ending(), list[str]()
        task = await begun(ending, log)
        for who in (first, "client" if first == "server" else "server"):
            if who == "server":
                ending.end()
            else:
                task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["begun", "cancelled"]


async def test_nothing_begins_after_the_end() -> None:
    ending = Ending()
    with ending.endable():
        pass
    ending.end()
    with pytest.raises(ShuttingDown), ending.endable():
        raise AssertionError("it began")


async def test_what_has_ended_by_itself_is_left_alone() -> None:
    ending = Ending()
    with ending.endable():
        pass
    ending.end()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_other_failures_pass_through() -> None:
    with pytest.raises(KeyError), Ending().endable():
        raise KeyError("ours")
