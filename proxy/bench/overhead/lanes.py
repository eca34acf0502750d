"""`specguard bench overhead --lanes`: what the guard costs in front of another server, beside asking that directly.

A bare hop, which passes bytes on and looks at none, is measured beside it: what a server on aiohttp costs at least.

Must not: compare figures of two runs; every figure has its direct counterpart in the same round.
Invariant: processor time is that of the arm's own process alone, over all tokens that it passed on.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp
import orjson

from proxy.bench.overhead.bodies import body_of
from proxy.bench.overhead.lane_source import CALL_WORD, COUNT, words
from proxy.bench.overhead.load import QUANTILES, BrokenStream, quantiles, read_streams
from proxy.bench.overhead.processes import module
from proxy.bench.overhead.run import Told
from proxy.bench.report import Bar, Cell, Report, Table

FIRST_MS, CPU_PERCENT, HEALED_MS = 1.0, 3.0, 20.0
START_S = 30.0
HOP, OURS = "bare hop", "specguard"


@dataclass(frozen=True, slots=True)
class LanePlan:
    """widths: tokens of a chunk; streams: at once; calls: healed ones, one after the other; gap_s: between chunks."""

    widths: tuple[int, ...] = (1, 4)
    streams: tuple[int, ...] = (1, 16)
    rounds: int = 5
    seconds: float = 4.0
    calls: int = 40
    gap_s: float = 0.01


QUICK = LanePlan(widths=(4,), rounds=2, seconds=1.0, calls=8)


@dataclass(slots=True)
class ArmCost:
    """One arm at one width and number of streams. first, direct: seconds at QUANTILES to the first word, a round each;
    cpu: seconds."""

    first: list[tuple[float, ...]] = field(default_factory=list)
    direct: list[tuple[float, ...]] = field(default_factory=list)
    cpu: float = 0.0
    tokens: int = 0

    @property
    def added(self) -> tuple[float, ...]:
        """Milliseconds at QUANTILES, medians over the rounds."""
        pairs = list(zip(self.first, self.direct, strict=True))
        return tuple(statistics.median((a[i] - b[i]) * 1e3 for a, b in pairs) for i in range(len(QUANTILES)))

    @property
    def cpu_percent(self) -> float:
        """Of one core, at 1,000 tokens in a second."""
        return self.cpu / max(1, self.tokens) * 1000 * 100


Loads = Mapping[tuple[int, int], Mapping[str, ArmCost]]
"""By width and number of streams, then by arm."""


async def measure(plan: LanePlan, tell: Told) -> Report:
    """Raises NotStarted for our own processes, BrokenStream."""
    loads: dict[tuple[int, int], dict[str, ArmCost]] = {}
    healed: list[float] = []
    plain: list[float] = []
    for width in plan.widths:
        async with AsyncExitStack() as stack:
            source = module("proxy.bench.overhead.lane_source", "--gap-s", str(plan.gap_s), "--width", str(width))
            origin = await stack.enter_async_context(source)
            arms = {}
            for arm, name in ((HOP, "forwarder"), (OURS, "hosted")):
                lanes = ["--lanes"] if arm == OURS else []
                proxy = module(f"proxy.bench.overhead.{name}", "--upstream", origin, *lanes)
                arms[arm] = await stack.enter_async_context(proxy)
            await _ready(arms[OURS])
            for streams in plan.streams:
                loads[width, streams] = await _load(plan, origin, arms, width, streams, tell)
            if width == plan.widths[-1]:
                tell("healed calls")
                for _ in range(plan.calls):
                    plain.append(await _first_call(origin, "plain"))
                    healed.append(await _first_call(arms[OURS], "fast"))
    return Report(
        "overhead-lanes",
        {
            "rounds": plan.rounds,
            "seconds per arm and round": plan.seconds,
            "tokens per response": COUNT,
            "ms between chunks": plan.gap_s * 1e3,
            "healed calls": plan.calls,
        },
        tables_of(loads, plain, healed),
        bars_of(loads, plain, healed),
        {},
        {
            f"{streams} streams, {width} tokens a chunk, {arm}": _plain(cost)
            for (width, streams), arms in loads.items()
            for arm, cost in arms.items()
        },
    )


async def _load(
    plan: LanePlan, origin: str, arms: Mapping[str, str], width: int, streams: int, tell: Told
) -> dict[str, ArmCost]:
    costs, text, body = {arm: ArmCost() for arm in arms}, "".join(words()), body_of(1000)
    names = ["direct", *arms]
    for number in range(plan.rounds):
        turn = number % len(names)
        direct: tuple[float, ...] = ()
        firsts: dict[str, tuple[float, ...]] = {}
        for arm in names[turn:] + names[:turn]:  # nobody is always first
            tell(f"{streams} streams, {width} tokens a chunk, round {number + 1} of {plan.rounds}: {arm}")
            if arm == "direct":
                direct = quantiles((await read_streams(origin, body, streams, plan.seconds, text, seed=number)).first)
                continue
            before = await _cpu(arms[arm])
            seen = await read_streams(arms[arm], body, streams, plan.seconds, text, seed=number)
            costs[arm].cpu += await _cpu(arms[arm]) - before
            costs[arm].tokens += (len(seen.first) + 1) * COUNT  # and the one that warms every path
            firsts[arm] = quantiles(seen.first)
        for arm, first in firsts.items():
            costs[arm].first.append(first)
            costs[arm].direct.append(direct)
    return costs


def bars_of(loads: Loads, plain: Sequence[float], healed: Sequence[float]) -> tuple[Bar, ...]:
    bars = []
    for (width, streams), arms in loads.items():
        cost = arms[OURS]
        where = f"{streams} streams, {width} tokens a chunk"
        bars.append(Bar.at_most(f"added to the first word, p50, {where}", FIRST_MS, cost.added[0], "ms"))
        bars.append(Bar.at_most(f"of a core per 1,000 tokens/s, {where}", CPU_PERCENT, cost.cpu_percent, "%"))
    added = (statistics.median(healed) - statistics.median(plain)) * 1e3
    bars.append(Bar.at_most("a healed call, beyond the plain lane's own first byte, p50", HEALED_MS, added, "ms"))
    return tuple(bars)


def tables_of(loads: Loads, plain: Sequence[float], healed: Sequence[float]) -> tuple[Table, ...]:
    names = tuple(f"+p{q * 100:g} ms" for q in QUANTILES)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (width, streams, arm, *cost.added, cost.cpu_percent, cost.tokens)
        for (width, streams), arms in loads.items()
        for arm, cost in arms.items()
    )
    calls = tuple(
        (name, statistics.median(times) * 1e3, max(times) * 1e3, len(times))
        for name, times in (("plain lane, direct", plain), ("healed, through the guard", healed))
    )
    return (
        Table(
            "Added to the first word, and processor time",
            ("tokens a chunk", "streams", "arm", *names, "% of a core per 1,000 tokens/s", "tokens"),
            rows,
            "Beside the same source asked directly, in the same rounds. Processor time: of the arm's process, "
            "requests included. The bare hop passes bytes on and looks at none.",
        ),
        Table("First byte of a call", ("arm", "p50 ms", "most ms", "calls"), calls, "The fast lane's call is refused."),
    )


def _plain(cost: ArmCost) -> dict[str, object]:
    return {"first_added_ms": cost.added, "cpu_percent": cost.cpu_percent, "tokens": cost.tokens}


async def _ready(base: str) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(START_S):
        while True:
            async with http.get(f"{base}/ready") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.05)


async def _cpu(base: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{base}/cpu") as response:
        return float(await response.json())


async def _first_call(base: str, model: str) -> float:
    """Seconds until the first byte of a call's arguments. Raises BrokenStream."""
    body = orjson.loads(body_of(1000))
    body["model"] = model
    body["messages"].append({"role": "user", "content": CALL_WORD})
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{base}/v1/chat/completions", json={**body, "messages": body["messages"][:-1]}) as warm:
            await warm.read()
        began = time.perf_counter()
        async with http.post(f"{base}/v1/chat/completions", json=body) as response:
            got = b""
            async for data in response.content.iter_any():
                got += data
                if b'"arguments":"{' in got or b'"arguments": "{' in got:
                    return time.perf_counter() - began
    raise BrokenStream(f"no call came: {got[-300:]!r}")
