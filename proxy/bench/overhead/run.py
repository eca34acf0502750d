"""Runs the arms in turn, round by round, and says what each adds to asking the source directly.

Must not: compare figures of two runs: load on the machine comes and goes, so all arms are measured in every round.
Invariant: what an arm adds is the median over rounds of its quantile less the source's in the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from proxy.bench.overhead import peer, source
from proxy.bench.overhead.bodies import SIZES, body_of
from proxy.bench.overhead.load import QUANTILES, Seen, quantiles, read_streams
from proxy.bench.overhead.processes import NotStarted, module
from proxy.bench.report import Bar, Cell, Report, Table

DIRECT, HOP, OURS, PEER = "direct", "bare hop", "specguard", "litellm"
BAR_STREAMS = 16
MOST_MS = {0.5: 1.0, 0.99: 5.0}
LESS = 4.0
"""How many times less than LiteLLM."""
FLOOR_MS = 0.01
"""Less than that is noise; ratios are not taken of it."""
NAMES = [f"p{q * 100:g}" for q in QUANTILES]
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """streams: at once; seconds: that each arm is asked in each round; gap_s: between words of the source."""

    streams: tuple[int, ...] = (1, 16, 64)
    sizes: tuple[str, ...] = tuple(SIZES)
    rounds: int = 5
    seconds: float = 4.0
    gap_s: float = 0.025


QUICK = Plan(streams=(1, 16), sizes=("1 kB",), rounds=2, seconds=1.0, gap_s=0.01)


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one arm under one load, in milliseconds at QUANTILES, medians over the rounds. added: beside the source."""

    first: tuple[float, ...]
    gap: tuple[float, ...]
    first_added: tuple[float, ...]
    gap_added: tuple[float, ...]
    requests: int


Loads = Mapping[tuple[int, str], Mapping[str, Measured]]


async def measure(plan: Plan, tell: Told, litellm: str | None = None) -> Report:
    """litellm: its command, None = the one on PATH. Raises NotStarted for our own processes, BrokenStream."""
    found = peer.found(litellm)
    absent = "" if found else f"there is no LiteLLM here: {peer.HOW}"
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(module("proxy.bench.overhead.source", "--gap-s", str(plan.gap_s)))
        arms = {DIRECT: origin}
        for arm, name in ((HOP, "forwarder"), (OURS, "hosted")):
            proxy = module(f"proxy.bench.overhead.{name}", "--upstream", origin)
            arms[arm] = await stack.enter_async_context(proxy)
        if found:
            try:
                tell("starting LiteLLM")
                arms[PEER] = await stack.enter_async_context(peer.litellm(found, origin, body_of(SIZES["1 kB"])))
            except NotStarted as problem:
                absent = str(problem)
        loads = {(n, size): await _load(plan, arms, n, size, tell) for size in plan.sizes for n in plan.streams}
    bars = bars_of(loads)
    unmeasured = {name: absent for name in _ratio_names(plan.sizes)} if PEER not in arms else {}
    settings = {
        "rounds": plan.rounds,
        "seconds per arm and round": plan.seconds,
        "words per response": len(source.WORDS),
        "ms between words": plan.gap_s * 1e3,
        "litellm": peer.version_of(found) if found and PEER in arms else "none",
    }
    return Report("overhead", settings, tables_of(loads), bars, unmeasured, _data(loads))


async def _load(plan: Plan, arms: Mapping[str, str], streams: int, size: str, tell: Told) -> dict[str, Measured]:
    seen: dict[str, list[Seen]] = {arm: [] for arm in arms}
    names = list(arms)
    for number in range(plan.rounds):
        turn = number % len(names)
        for arm in names[turn:] + names[:turn]:  # nobody is always first
            tell(f"{streams} streams, bodies of {size}, round {number + 1} of {plan.rounds}: {arm}")
            body = body_of(SIZES[size])
            seen[arm].append(await read_streams(arms[arm], body, streams, plan.seconds, len(source.WORDS), seed=number))
    return {arm: compare(seen[arm], seen[DIRECT]) for arm in names}


def compare(rounds: list[Seen], direct: list[Seen]) -> Measured:
    """One arm beside the source, round by round."""
    first, first_added = _medians([each.first for each in rounds], [each.first for each in direct])
    gap, gap_added = _medians([each.gaps for each in rounds], [each.gaps for each in direct])
    return Measured(first, gap, first_added, gap_added, sum(len(each.first) for each in rounds))


def _medians(arm: list[list[float]], direct: list[list[float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    ours, theirs = [quantiles(each) for each in arm], [quantiles(each) for each in direct]
    plain = tuple(statistics.median(round_[i] for round_ in ours) * 1e3 for i in range(len(QUANTILES)))
    pairs = list(zip(ours, theirs, strict=True))
    added = tuple(statistics.median(a[i] - b[i] for a, b in pairs) * 1e3 for i in range(len(QUANTILES)))
    return plain, added


def bars_of(loads: Loads) -> tuple[Bar, ...]:
    """At BAR_STREAMS streams, for each size of body."""
    bars: list[Bar] = []
    for (streams, size), arms in loads.items():
        if streams != BAR_STREAMS:
            continue
        for q, most in MOST_MS.items():
            at = QUANTILES.index(q)
            for what, added in (("first word", arms[OURS].first_added), ("gap", arms[OURS].gap_added)):
                name = f"added to the {what}, p{q * 100:g}, {streams} streams, {size}"
                bars.append(Bar.at_most(name, most, added[at], "ms"))
        if PEER in arms:
            for q, name in zip(MOST_MS, _ratio_names([size]), strict=True):
                at = QUANTILES.index(q)
                ours, theirs = arms[OURS].first_added[at], arms[PEER].first_added[at]
                bars.append(Bar.at_least(name, LESS, theirs / max(ours, FLOOR_MS), "x"))
    return tuple(bars)


def _ratio_names(sizes: tuple[str, ...] | list[str]) -> list[str]:
    return [
        f"LiteLLM adds so many times more to the first word, p{q * 100:g}, {BAR_STREAMS} streams, {size}"
        for size in sizes
        for q in MOST_MS
    ]


def tables_of(loads: Loads) -> tuple[Table, ...]:
    columns = ("body", "streams", "arm", *NAMES, *(f"+{name}" for name in NAMES), "responses")
    return (
        Table(
            "Time to the first word, ms",
            columns,
            tuple(_row(key, arm, each, each.first, each.first_added) for key, arm, each in _flat(loads)),
            "direct: the source alone. The others: with the source behind; the bare hop passes bytes on and "
            "looks at none. +: added to direct.",
        ),
        Table(
            "Gap between words, ms",
            columns,
            tuple(_row(key, arm, each, each.gap, each.gap_added) for key, arm, each in _flat(loads)),
            "The source leaves the same gap between all words. There is no engine in any arm, and nothing is held.",
        ),
    )


def _flat(loads: Loads) -> list[tuple[tuple[int, str], str, Measured]]:
    return [(key, arm, each) for key, arms in loads.items() for arm, each in arms.items()]


def _row(
    key: tuple[int, str], arm: str, each: Measured, plain: tuple[float, ...], added: tuple[float, ...]
) -> tuple[Cell, ...]:
    extra: tuple[Cell, ...] = tuple(None for _ in added) if arm == DIRECT else added
    return (key[1], key[0], arm, *plain, *extra, each.requests)


def _data(loads: Loads) -> dict[str, object]:
    return {
        f"{streams} streams, {size}, {arm}": {
            "first_ms": dict(zip(NAMES, each.first, strict=True)),
            "first_added_ms": dict(zip(NAMES, each.first_added, strict=True)),
            "gap_ms": dict(zip(NAMES, each.gap, strict=True)),
            "gap_added_ms": dict(zip(NAMES, each.gap_added, strict=True)),
            "responses": each.requests,
        }
        for (streams, size), arm, each in _flat(loads)
    }
