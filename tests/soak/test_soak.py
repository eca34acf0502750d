"""A server that is left running: mixed load, then silence, again and again, while somebody watches its memory.

Each round 64 clients load the server; then all of them leave at once in mid-stream, and the server must come to rest:
no response, no task, no file left open, and not one more decoding step for the dead.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.soak.clients import KINDS
from tests.soak.curve import growth, sparkline
from tests.soak.served import Sample, Server, served

UNREAD_S, BODY_S = 12, 4
ROUNDS = 15
REST_S = 60
"""How long the server may take to come to rest. It is quick; the machine may be busy."""
IDLE_S = 8
"""After each round. Within it the server gives memory back, and its own work begins: canaries and replays, which make
way for the next round."""
OWN_TASKS = 2
"""That go on for incidents which wait to be judged: the same few after each round, however many rounds there are."""
LATE_STEPS = 2
"""For each client that has left: a step that ran, and one that was asked for before the loop heard of it."""
STORE_FILES = 4
"""That are opened with the first incident: the database, its log and index, and the lock beside it."""
SHARES = {"memory (MiB)": 0.05, "Python blocks": 0.02}
"""See `curve`."""
CLIENTS = sum(count for _, count, _ in KINDS.values())


class Load:
    """64 clients, until they are told to leave. told: what happened to whom, of those that came to an end."""

    def __init__(self, port: int, seed: int) -> None:
        self.told: Counter[tuple[str, str]] = Counter()
        self._port, self._draw = port, random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        for name, (_, count, _) in KINDS.items():
            for _ in range(count):
                self._tasks.append(asyncio.create_task(self._come_again(name, random.Random(self._draw.random()))))

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def surprises(self) -> list[str]:
        return [f"{name}: {word} ({n})" for (name, word), n in self.told.items() if word not in KINDS[name][2]]

    async def _come_again(self, name: str, draw: random.Random) -> None:
        while True:
            try:
                self.told[name, await KINDS[name][0](self._port, draw)] += 1
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.told[name, type(error).__name__] += 1


async def comes_to_rest(server: Server, quiet: Sample) -> int:
    """The steps that the server took after all had left. Fails if something is left of them.

    quiet: how it was before anybody came.
    """
    first = await server.sample()
    stopped = await until(server, lambda now: not now.busy, "responses still run")
    await asyncio.sleep(1)
    assert (await server.sample()).steps == stopped.steps, "it decodes for nobody"
    tasks = quiet.tasks + OWN_TASKS
    await until(server, lambda now: not now.busy and now.tasks <= tasks and now.fds <= quiet.fds, "something was left")
    return stopped.steps - first.steps


async def until(server: Server, condition: Callable[[Sample], bool], otherwise: str) -> Sample:
    patience = time.monotonic() + REST_S
    while not condition(now := await server.sample()):
        assert time.monotonic() < patience, f"{otherwise}: {now}"
        await asyncio.sleep(0.1)
    return now


async def soak(
    server: Server, minutes: float
) -> tuple[list[Sample], list[Sample], list[str], Counter[tuple[str, str]]]:
    """Samples under load, samples at rest, what went wrong, and what happened to the clients."""
    quiet = await server.sample()
    quiet = replace(quiet, fds=quiet.fds + STORE_FILES)
    under, rest, wrong = [quiet], [], []
    load = Load(server.port, seed=1)
    until = time.monotonic() + minutes * 60
    round_s = max(15.0, minutes * 60 / ROUNDS - IDLE_S - 2)
    while time.monotonic() < until:
        load.begin()
        ends = time.monotonic() + round_s
        while time.monotonic() < ends:
            await asyncio.sleep(min(2.0, round_s / 5))
            under.append(await server.sample())
        await load.leave()
        late = await comes_to_rest(server, quiet)
        await asyncio.sleep(IDLE_S)
        rest.append(await server.sample())
        if late > LATE_STEPS * CLIENTS:
            wrong.append(f"{late} steps for clients that had left, after {rest[-1].at:.0f} s")
    return under, rest, wrong + load.surprises(), load.told


def show(under: list[Sample], rest: list[Sample], told: Counter[tuple[str, str]]) -> None:
    console = Console(width=120, highlight=False)
    table = Table(title=f"at rest, after each round of {CLIENTS} clients")
    for name in ("second", "memory (MiB)", "caches (MiB)", "Python blocks", "open files", "tasks", "steps so far"):
        table.add_column(name, justify="right")
    for s in rest:
        table.add_row(
            f"{s.at:.0f}", f"{s.rss:.1f}", f"{s.caches:.1f}", f"{s.blocks:,}", str(s.fds), str(s.tasks), f"{s.steps:,}"
        )
    console.print(table)
    pairs = list(pairwise(under))
    rows = {
        "memory under load, MiB": [s.rss for s in under],
        "open files": [s.fds for s in under],
        "tasks": [s.tasks for s in under],
        "responses running": [s.running for s in under],
        "steps per second": [max(0.0, b.steps - a.steps) / (b.at - a.at) for a, b in pairs],
    }
    for name, values in rows.items():
        console.print(f"{name:24} {sparkline(values)} {min(values):,.0f} to {max(values):,.0f}")
    console.print("clients: " + ", ".join(f"{name} {word} {n}" for (name, word), n in sorted(told.items())))


@pytest.mark.soak
def test_a_server_that_is_left_running(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    minutes = request.config.getoption("--minutes")
    with served(
        tmp_path,
        server__unread_s=UNREAD_S,
        server__body_s=BODY_S,
        model__max_turns=CLIENTS,
        model__max_waiting=CLIENTS,
        breaker__canary_quiet_s=3,
        replay__quiet_s=3,
        log__level="warning",
    ) as server:
        under, rest, wrong, told = asyncio.run(soak(server, minutes))
    show(under, rest, told)
    measured = {"memory (MiB)": [(s.at, s.rss) for s in rest], "Python blocks": [(s.at, s.blocks) for s in rest]}
    for name, points in measured.items():
        found = growth(points)
        print(f"{name}: median {found.median:,.1f}, growth {found.share:+.2%}, {found.per_hour:+,.1f} an hour")
        if found.share > SHARES[name]:
            wrong.append(f"{name} grew by {found.share:.1%}; at most {SHARES[name]:.0%}")
    assert max(s.running for s in under) >= CLIENTS * 3 // 4, "the load was no load"
    assert not wrong, "\n".join(wrong)
