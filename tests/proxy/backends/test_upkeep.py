"""A thread that dies is replaced once; what does not return is told, and both refuse requests honestly meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError

import pytest
import pytest_asyncio

from proxy.backends.errors import EngineLost
from proxy.backends.upkeep import Upkeep

pytestmark = pytest.mark.asyncio


class Ends(BaseException):
    """Ends the thread."""


class Device:
    """An engine that does what a turn's name says."""

    def __init__(self) -> None:
        self.loads = 0
        self.broken = self.deadly = False
        self.loading = asyncio.Event()
        self.loading.set()
        self.release = threading.Event()
        self.upkeep = Upkeep[str, str](self.step, self.reload, stuck_s=0.05)

    def step(self, turns: Sequence[str]) -> list[str | Exception]:
        if "dies" in turns:
            raise Ends
        if "hangs" in turns:
            assert self.release.wait(20)
        return [f"{turn} on {self.loads}" for turn in turns]

    async def reload(self) -> None:
        await self.loading.wait()
        if self.broken:
            raise ValueError("out of memory")
        await self.upkeep.load(self.load)

    def load(self) -> None:
        self.loads += 1
        if self.deadly:
            raise Ends


@pytest_asyncio.fixture
async def device() -> AsyncIterator[Device]:
    made = Device()
    await made.reload()
    made.upkeep.watch()
    yield made
    made.release.set()
    await made.upkeep.stop()


async def dies(device: Device) -> EngineLost:
    with pytest.raises(EngineLost) as lost:
        await device.upkeep.step("dies")
    await until(lambda: device.upkeep.trouble is not None)  # who waits hears of it first
    return lost.value


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  # what is waited for is told to nobody
            await asyncio.sleep(0.005)


async def recovered(device: Device) -> None:
    await until(lambda: device.upkeep.trouble is None)


async def test_a_dead_worker_is_replaced_and_serves_again(device: Device) -> None:
    device.loading.clear()
    waiting = asyncio.ensure_future(device.upkeep.step("dies"))
    lost = await dies(device)
    with pytest.raises(EngineLost):
        await waiting
    assert (lost.kind, lost.trouble.reason, lost.trouble.final) == ("overloaded", "died", False)
    assert "a fresh engine is being loaded" in str(lost)
    for refused in (device.upkeep.step("a"), device.upkeep.run(len, "a")):
        with pytest.raises(EngineLost, match="fresh engine"):
            await refused
    device.loading.set()
    await recovered(device)
    assert await device.upkeep.step("a") == "a on 2"


async def test_one_that_dies_again_is_not(device: Device) -> None:
    await dies(device)
    await recovered(device)
    again = await dies(device)
    assert (again.kind, again.trouble.final) == ("internal", True)
    assert "restart the server" in str(again)
    await asyncio.sleep(0.02)
    assert device.loads == 2
    with pytest.raises(EngineLost, match="restart the server"):
        await device.upkeep.step("a")


async def test_a_fresh_engine_that_cannot_be_loaded_is_told(device: Device) -> None:
    device.broken = True
    await dies(device)
    await until(lambda: device.upkeep.trouble is not None and device.upkeep.trouble.final)
    assert device.upkeep.trouble is not None
    assert "ValueError" in device.upkeep.trouble.message
    assert "out of memory" not in device.upkeep.trouble.message


async def test_a_fresh_engine_that_dies_while_it_is_loaded_is_not_replaced(device: Device) -> None:
    device.deadly = True
    await dies(device)
    await until(lambda: device.upkeep.trouble is not None and device.upkeep.trouble.final)
    await asyncio.sleep(0.05)
    assert device.loads == 2
    assert device.upkeep.trouble is not None
    assert device.upkeep.trouble.final


async def test_what_hangs_is_given_up_and_taken_up_when_it_returns(device: Device) -> None:
    hanging = asyncio.ensure_future(device.upkeep.step("hangs"))
    behind = asyncio.ensure_future(device.upkeep.step("behind"))
    for lost in (hanging, behind):
        with pytest.raises(EngineLost, match="has not returned"):
            await lost
    with pytest.raises(EngineLost) as late:
        await device.upkeep.step("late")
    assert (late.value.trouble.reason, late.value.kind) == ("stuck", "overloaded")
    device.release.set()
    await recovered(device)
    assert await device.upkeep.step("a") == "a on 1"


async def test_what_is_submitted_runs_behind_what_hangs_and_nowhere_after_the_end(device: Device) -> None:
    done = threading.Event()
    hanging = asyncio.ensure_future(device.upkeep.step("hangs"))
    await asyncio.sleep(0.01)
    device.upkeep.submit(done.set)
    device.release.set()
    assert await hanging == "hangs on 1"
    assert await asyncio.to_thread(done.wait, 20)
    await device.upkeep.stop()
    device.upkeep.submit(done.clear)
    assert done.is_set()


async def test_errors_of_calls_are_their_callers(device: Device) -> None:
    with pytest.raises(ZeroDivisionError):
        await device.upkeep.run(lambda: 1 // 0)
    assert device.upkeep.trouble is None
    with pytest.raises((CancelledError, asyncio.CancelledError)):
        task = asyncio.ensure_future(device.upkeep.step("a"))
        await asyncio.sleep(0)
        task.cancel()
        await task
