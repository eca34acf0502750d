"""Exact loops: the end of a sequence of symbols repeats one unit, often enough and long enough.

Must not: look at text, or flag on copies alone (a short unit) or on coverage alone (two long copies).
Invariant: a grade is given at the first symbol after which some period p <= `max_period` has at least the
grade's copies and covered symbols, and at no earlier one; the smallest such p is reported, so it is primitive.

Method: the latest earlier occurrence of the last K symbols lies exactly p back if p <= K and K + p symbols are
covered (Fine and Wilf: a nearer one would make the unit a power of a smaller one). So every few symbols the end is
searched in its own past, for K = 16, 24, 36, 54 ..., by `str.rfind` in C on code points; a K that is not found
spares all longer ones. From then on one comparison per symbol keeps a candidate alive. The search for K comes
round every max(8, K / 8) symbols, and p > K / 1.5, so a candidate is known by 2.7 p covered symbols: that is exact as
long as a threshold needs at least 3 copies and 64 covered symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from detectors.finding import Finding, Grade

MAX_PERIOD = 2048
"""Tokens of the longest unit: seven paragraphs, or a hundred lines, were reported."""
EVIDENCE_TOKENS = 64
STRIDE = 8
"""Symbols between two searches."""
_SMALLEST = 16
_SYMBOLS = 0x110000


@dataclass(frozen=True, slots=True)
class Threshold:
    """Reached with at least `copies` copies of the unit and `covered` tokens inside them."""

    copies: int
    covered: int

    def __post_init__(self) -> None:
        if self.copies < 3 or self.covered < 64:
            raise ValueError("a loop needs at least 3 copies and 64 covered tokens")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From the mildest to the gravest, each at least as hard to reach as the one before; None = never that grade."""

    suspect: Threshold | None
    fallback: Threshold | None
    abort: Threshold | None

    def __post_init__(self) -> None:
        given = [(each.copies, each.covered) for each in (self.suspect, self.fallback, self.abort) if each is not None]
        if any(a > b for mild, grave in pairwise(given) for a, b in zip(mild, grave, strict=True)):
            raise ValueError("suspect, fallback, abort: each must ask for as much as the one before, or more")

    def reached(self, period: int, covered: int) -> Grade | None:
        """The gravest grade that `covered` tokens of one period reach."""
        copies = covered // period
        for threshold, grade in (
            (self.abort, Grade.ABORT),
            (self.fallback, Grade.FALLBACK),
            (self.suspect, Grade.SUSPECT),
        ):
            if threshold is not None and copies >= threshold.copies and covered >= threshold.covered:
                return grade
        return None


PROSE = Thresholds(Threshold(3, 96), Threshold(4, 256), Threshold(6, 1024))
"""Text and thinking: 0 of 887 prose documents reach FALLBACK."""
ARGUMENTS = Thresholds(Threshold(4, 256), Threshold(4, 512), Threshold(6, 2048))
"""Tool arguments carry data (tables, matrices, base64) that repeats by right."""


class Loop(NamedTuple):
    """What goes on at the end of the sequence. period, covered: in symbols. (A tuple, as it is made often.)"""

    grade: Grade
    period: int
    covered: int


class Periods:
    """The periods that hold at the end of a sequence. Symbols are numbers, taken modulo 0x110000.

    About 0.4 us per symbol outside of loops; at most 4 * max_period symbols are kept, four bytes each.
    """

    def __init__(self, max_period: int = MAX_PERIOD) -> None:
        self._max_period = max_period
        self._kept = 4 * max_period
        self._levels = _levels(max_period)
        self._tail = ""  # all but the fresh ones
        self._fresh: list[str] = []
        self._searched = 0  # symbols up to the last search
        self.runs: dict[int, int] = {}
        """Lag -> how many of the last symbols equal the one at that lag."""

    @property
    def count(self) -> int:
        return self._searched + len(self._fresh)

    def reset(self) -> None:
        self._tail = ""
        self._fresh.clear()
        self._searched = 0
        self.runs.clear()

    def push(self, symbol: int) -> dict[int, int]:
        """Takes one symbol; answers the runs, which are empty where nothing repeats."""
        fresh = self._fresh
        fresh.append(chr(symbol if symbol < _SYMBOLS else symbol % _SYMBOLS))
        if self.runs:
            self._follow()
        if len(fresh) == STRIDE:
            self._search()
        return self.runs

    def worst(self, reached: Callable[[int, int], Grade | None]) -> Loop | None:
        """The gravest grade that a run reaches, by the smallest period that reaches it.

        reached: the grade of (period, covered); Thresholds.reached.
        """
        runs, worst = self.runs, None
        for period in sorted(runs) if len(runs) > 1 else runs:
            covered = runs[period] + period
            grade = reached(period, covered)
            if grade is not None and (worst is None or grade > worst.grade):
                worst = Loop(grade, period, covered)
        return worst

    def last(self, count: int) -> list[int]:
        """The last symbols, oldest first; fewer where fewer are kept."""
        return [ord(char) for char in (self._tail + "".join(self._fresh))[-count:]]

    def unit(self, loop: Loop) -> list[int]:
        """The unit as it stands in the first copy, at most EVIDENCE_TOKENS of it."""
        symbols = self.last(loop.period + loop.covered % loop.period)
        return symbols[: min(loop.period, EVIDENCE_TOKENS)]

    def _follow(self) -> None:
        """Keeps the candidates that predicted the newest symbol."""
        fresh, tail, runs = self._fresh, self._tail, self.runs
        newest, known = fresh[-1], len(fresh)
        broken: list[int] | tuple[()] = ()
        for lag in runs:
            if (fresh[-1 - lag] if lag < known else tail[known - lag - 1]) == newest:
                runs[lag] += 1
            else:
                broken = [*broken, lag]
        for lag in broken:
            del runs[lag]

    def _search(self) -> None:
        tail = self._tail + "".join(self._fresh)
        self._fresh.clear()
        if len(tail) > self._kept + 512:
            tail = tail[-self._kept :]
        self._tail = tail
        self._searched = count = self._searched + STRIDE
        size, repeated = len(tail), 0
        for length, stride in self._levels:
            if length <= repeated:  # the latest occurrence is the one that is known
                continue
            if count % stride or size <= length:
                return
            at = tail.rfind(tail[-length:], max(0, size - length - self._max_period), size - 1)
            if at < 0:
                return
            lag = size - length - at
            repeated = self.runs.get(lag) or self._matches(lag, length)
            if lag <= repeated:
                self.runs[lag] = repeated

    def _matches(self, lag: int, known: int) -> int:
        """How many of the last symbols equal the one at this lag, at least `known`, as far as symbols are kept."""
        tail, size = self._tail, len(self._tail)
        low, high = known, size - lag
        while low < high:
            middle = (low + high + 1) // 2
            if tail[size - middle : size - low] == tail[size - middle - lag : size - low - lag]:
                low = middle
            else:
                high = middle - 1
        return low


@cache
def _levels(max_period: int) -> tuple[tuple[int, int], ...]:
    """(K, symbols between two searches for K): strides are powers of two, so each K comes round with all smaller."""
    levels = []
    length = _SMALLEST
    while True:
        length = min(length, max(max_period, _SMALLEST))
        levels.append((length, max(STRIDE, 1 << (length // 8).bit_length() - 1)))
        if length >= max_period:
            return tuple(levels)
        length += length // 2


class PeriodDetector:
    """Feeds on the tokens of one channel; positions rise by one between resets."""

    def __init__(self, thresholds: Thresholds = PROSE, detector: str = "loop.period", channel: str = "text") -> None:
        self._thresholds = thresholds
        self._detector = detector
        self.channel = channel
        self._periods = Periods()
        self._grade: Grade | None = None

    @property
    def grade(self) -> Grade | None:
        return self._grade

    def reset(self) -> None:
        self._periods.reset()
        self._grade = None

    def feed(self, position: int, token: int) -> Finding | None:
        """Takes one token; answers once per loop and grade, when the grade is reached."""
        if not self._periods.push(token):
            self._grade = None
            return None
        loop = self._periods.worst(self._thresholds.reached)
        before, self._grade = self._grade, None if loop is None else loop.grade
        if loop is None or (before is not None and loop.grade <= before):
            return None
        return period_finding(loop, self._periods, self._detector, self.channel, position)


def period_finding(loop: Loop, periods: Periods, detector: str, channel: str, position: int) -> Finding:
    """What is told of an exact loop; one copy may stay, so it begins after the first."""
    return Finding(
        detector=detector,
        grade=loop.grade,
        channel=channel,
        position=position,
        began=position - loop.covered + 1 + loop.period,
        reason=f"{loop.grade.name.lower()}: a unit repeats",
        evidence={
            "period": loop.period,
            "copies": loop.covered // loop.period,
            "covered": loop.covered,
            "unit": periods.unit(loop),
        },
    )
