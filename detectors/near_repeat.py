"""Near-repeats: most of what a model says, it has said at least twice before, not long ago.

Must not: police tool arguments or code (4 to 6 % of legitimate data looks like this), or count what was said once
before: quoting and rewriting a text is no loop.
Invariant: bounded memory; the state is a function of the tokens fed.

An n-gram is repeated if it is its third occurrence, or a later one, within `horizon` tokens. Counters, small
mutations, a few variants in turn: each breaks n grams per change and leaves the rest repeated. The share of repeated
grams among the last `window` tokens is what is judged.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from detectors.finding import Finding, Grade

GRAM = 4
_SHIFT = 60 // GRAM
_MASK = (1 << 60) - 1
_MIX = 0x9E37
_GAP_BITS = 12


@dataclass(frozen=True, slots=True)
class NearThresholds:
    """horizon, window, abort_after: tokens (horizon a power of two below 4096). suspect, fallback: shares, 0 to 1.

    abort_after: the share stays at `fallback` or above for so many tokens.
    """

    horizon: int
    window: int
    suspect: float
    fallback: float
    abort_after: int

    def __post_init__(self) -> None:
        if self.horizon & (self.horizon - 1) or not self.window <= self.horizon < 1 << _GAP_BITS:
            raise ValueError("horizon must be a power of two below 4096, and not below window")
        if not 0 < self.suspect <= self.fallback <= 1:
            raise ValueError("suspect and fallback are shares: 0 < suspect <= fallback <= 1")


class NearRepeat:
    """Feeds on the tokens of one channel."""

    def __init__(self, thresholds: NearThresholds) -> None:
        self._thresholds = thresholds
        self._suspect = round(thresholds.suspect * thresholds.window)
        self._fallback = round(thresholds.fallback * thresholds.window)
        self._horizon, self._window = thresholds.horizon, thresholds.window
        self.reset()

    def reset(self) -> None:
        self._key = self._count = self._repeated = 0
        self._new: dict[int, int] = {}  # gram -> position of its last occurrence, and the gap before it
        self._old: dict[int, int] = {}
        self._marks = array("H", bytes(2 * self._horizon))  # 2 * gap + (third occurrence or later)
        self._positions = array("Q", bytes(8 * self._horizon))
        self._since = 0  # index at which the share reached `fallback`
        self.grade: Grade | None = None

    @property
    def share(self) -> float:
        """Repeated grams among the last `window`, 0 to 1."""
        return self._repeated / self._window

    def push(self, position: int, token: int) -> Grade | None:
        """Takes one token; answers the grade of what goes on now."""
        count = self._count = self._count + 1
        key = self._key = (self._key << _SHIFT ^ token * _MIX) & _MASK
        new, marks, horizon = self._new, self._marks, self._horizon
        mark = 0
        seen = new.get(key) or self._old.get(key)
        if seen is None:
            new[key] = count << _GAP_BITS
        else:
            gap = count - (seen >> _GAP_BITS)
            if gap <= horizon:
                before = seen & (1 << _GAP_BITS) - 1
                mark = 2 * gap
                if before and gap + before <= horizon:
                    mark += 1
                new[key] = count << _GAP_BITS | gap
            else:
                new[key] = count << _GAP_BITS
        if len(new) > horizon:
            self._old, self._new = new, {}
        slot = count & horizon - 1
        repeated = self._repeated = self._repeated + (mark & 1) - (marks[count - self._window & horizon - 1] & 1)
        marks[slot] = mark
        self._positions[slot] = position
        if repeated < self._suspect:
            self.grade = None
            return None
        return self._judge()

    def _judge(self) -> Grade:
        if self._repeated < self._fallback:
            if self.grade is None or self.grade is Grade.SUSPECT:
                self.grade = Grade.SUSPECT
                return self.grade
            self.grade = Grade.SUSPECT
        elif self.grade is None or self.grade is Grade.SUSPECT:
            self.grade, self._since = Grade.FALLBACK, self._count
        elif self._count - self._since >= self._thresholds.abort_after:
            self.grade = Grade.ABORT
        return self.grade

    def finding(self, channel: str, position: int) -> Finding:
        """What is told at the token at which a grade was reached; O(horizon)."""
        assert self.grade is not None
        steps, gap = self._reach()
        evidence = {"share": round(self.share, 3), "window": self._window, "tokens": steps, "gap": gap}
        began = self._positions[self._count - steps + 1 & self._horizon - 1]
        reason = f"{self.grade.name.lower()}: the same words again and again"
        return Finding("loop.near", self.grade, channel, position, began, reason, evidence)

    def _reach(self) -> tuple[int, int]:
        """(How many of the last tokens repeat earlier ones, the median distance to those).

        The first copy is new where it is said, so what repeats begins with the second. The best suffix, where a
        repeated gram counts 1 and a new one -2.
        """
        best = score = 0
        steps = 1
        for back in range(min(self._count, self._horizon)):
            score += 1 if self._marks[self._count - back & self._horizon - 1] else -2
            if score > best:
                best, steps = score, back + 1
        gaps = sorted(mark >> 1 for back in range(steps) if (mark := self._marks[self._count - back & self._horizon - 1]))
        return steps, gaps[len(gaps) // 2] if gaps else 0
