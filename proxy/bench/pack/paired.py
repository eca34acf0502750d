"""How much less time one mode takes than another, from the same steps in both, with what chance leaves open.

Must not: tell a winner from one round. Invariant: the interval is no narrower than what the rounds differ by, and there
is none where nothing was repeated; the same times give the same interval (bootstrap by a fixed seed).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RESAMPLES = 1000
Times = Sequence[Sequence[float]]
"""Rounds of steps, seconds."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """value: all seconds of one by all of the other; low, high: its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_less(self) -> bool:
        """Beyond chance."""
        return self.high < 1.0

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(own: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> Ratio | None:
    """own, other: workload -> figures as in the JSON. None where a workload was timed in one round only, or otherwise
    than in the other mode.

    Steps are drawn again in pairs, each with its rounds, within their workload: so it says what other steps of this
    kind would take. Where a workload has but one step its rounds are drawn.
    """
    workloads = []
    for name in own.keys() & other.keys():
        mine, theirs = own[name].get("timed") or (), other[name].get("timed") or ()
        rounds = min(len(mine), len(theirs))
        if rounds < 2 or any(len(a) != len(b) for a, b in zip(mine, theirs, strict=False)):
            return None
        pairs = [list(zip(a, b, strict=True)) for a, b in zip(mine, theirs, strict=False)]
        workloads.append((name, pairs))
    if not workloads:
        return None
    workloads.sort()
    rounds = min(len(pairs) for _, pairs in workloads)
    by_round = [_of([pair for _, pairs in workloads for pair in pairs[n]]) for n in range(rounds)]
    units = [_units(pairs) for _, pairs in workloads]
    value = _of([pair for each in units for pair in each])
    rng = random.Random(0)
    drawn = sorted(_of([pair for each in units for pair in rng.choices(each, k=len(each))]) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
    return Ratio(value, min(low, *by_round), max(high, *by_round))


def _units(pairs: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    steps = [(sum(a for a, _ in step), sum(b for _, b in step)) for step in zip(*pairs, strict=True)]
    return steps if len(steps) > 1 else [pair for each in pairs for pair in each]


def _of(pairs: Sequence[tuple[float, float]]) -> float:
    theirs = sum(b for _, b in pairs)
    return sum(a for a, _ in pairs) / theirs if theirs else 1.0
