"""Memory goes back to the system once after each time that somebody was served, and never before it is quiet."""

from __future__ import annotations

import asyncio

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.configuration.config import Config
from proxy.incidents import IncidentStore
from proxy.server.service import Service
from proxy.server.spare_memory import QUIET_S, give_back, trim
from tests.proxy.scripted import ScriptedBackend
from tests.virtual_time import run


def test_once_after_each_time_that_somebody_was_served() -> None:
    config = Config()
    given: list[float] = []

    async def day() -> None:
        service = Service(config, ScriptedBackend(), IncidentStore(config.incidents.path), Policy(), DecodeMode("none"))
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(give_back(service, lambda: given.append(loop.time())))
        await asyncio.sleep(100)
        assert given == [], "nobody was served yet"
        for _ in range(5):  # never quiet for long
            with service.counted():
                await asyncio.sleep(QUIET_S * 3)
            await asyncio.sleep(QUIET_S / 2)
        assert given == []
        await asyncio.sleep(QUIET_S * 10)
        assert len(given) == 1
        with service.counted():
            await asyncio.sleep(1)
        await asyncio.sleep(QUIET_S * 10)
        assert len(given) == 2
        task.cancel()

    run(day(), patience_s=0.01)


def test_the_system_can_be_told() -> None:
    trim()
