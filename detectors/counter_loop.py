"""Counter loops: an exact loop once every number is taken for the same number.

Must not: speak of units without a word, or where no number goes on by the same step from copy to copy (tables, logs and
test cases look alike otherwise); or of tool arguments.
Invariant: digits that follow each other count as one symbol, however they were tokenised.
"""

from __future__ import annotations

import re
from array import array
from itertools import pairwise

from detectors.finding import Finding, Grade
from detectors.period import Loop, Periods, Thresholds
from detectors.token_text import NUMBER, WORD, TokenText

WORD_EVERY = 20
"""Symbols of a unit per word in it, at most: a hex dump has a letter here and there."""
MAX_PERIOD = 1024
"""Symbols of the longest unit."""
_DIGITS = NUMBER
_KEPT = 4 * MAX_PERIOD
_MODULUS = 1 << 40
_DIGIT_RUN = re.compile(r"[0-9]{1,12}")


class CounterLoop:
    """Feeds on the texts of one channel."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._periods = Periods(MAX_PERIOD)
        self._positions = array("Q")
        self._number_at = array("Q")  # which symbols are numbers
        self._numbers = array("Q")  # and what they say
        self.reset()

    def reset(self) -> None:
        self._periods.reset()
        self._in_number = False
        self._counting: dict[int, bool] = {}  # period -> whether its unit counts, as last looked
        del self._positions[:], self._number_at[:], self._numbers[:]
        self.loop: Loop | None = None

    @property
    def first(self) -> int:
        """Position of the first token of the loop that goes on."""
        assert self.loop is not None
        return self._positions[max(-len(self._positions), -self.loop.covered)]

    def push(self, position: int, facts: TokenText, text: str) -> Loop | None:
        """Takes one token's text; answers what goes on now."""
        if facts.digits:
            if self._in_number:
                self._numbers[-1] = (self._numbers[-1] * pow(10, len(text), _MODULUS) + _number(text)) % _MODULUS
                return self.loop
            self._in_number = True
            runs = self._periods.push(_DIGITS)
        else:
            self._in_number = facts.ends_in_digit
            runs = self._periods.push(facts.code)
        positions = self._positions
        positions.append(position)
        if len(positions) == 2 * _KEPT:
            del positions[:_KEPT]
        if facts.code & NUMBER:
            self._number_at.append(self._periods.count - 1)
            self._numbers.append(_number(text))
            if len(self._numbers) == 2 * _KEPT:
                del self._number_at[:_KEPT], self._numbers[:_KEPT]
        if runs:
            self.loop = self._judge() if self._number_at else None
        elif self.loop is not None or self._counting:
            self.loop = None
            self._counting.clear()
        return self.loop

    def _judge(self) -> Loop | None:
        loop = self._periods.worst(self._thresholds.reached)
        if loop is None:
            return None
        period = loop.period
        if not self._counting.get(period) and (loop.covered % period == 0 or period not in self._counting):
            self._counting[period] = self._counts(period)
        return loop if self._counting[period] else None

    def _counts(self, period: int) -> bool:
        """Whether the unit has words, and a number that went on by the same step in the last three copies."""
        if sum(bool(symbol & WORD) for symbol in self._periods.last(period)) * WORD_EVERY < period:
            return False
        newest = self._periods.count - 1
        values: dict[int, int] = {}
        for at, value in zip(reversed(self._number_at), reversed(self._numbers), strict=True):
            if at <= newest - 5 * period:
                break
            values[at] = value
        for at in range(newest - period, newest):  # the newest may not be complete
            last = [values.get(at - period * back) for back in range(4)]
            if None in last:
                continue
            steps = {a - b for a, b in pairwise(last) if a is not None and b is not None}
            if len(steps) == 1 and steps != {0}:
                return True
        return False

    def finding(self, channel: str, position: int, grade: Grade) -> Finding:
        """What is told at the token at which a grade was reached; period and copies count symbols, not tokens."""
        loop = self.loop
        assert loop is not None
        began = self._positions[max(-len(self._positions), loop.period - loop.covered)]
        evidence = {"period": loop.period, "copies": loop.covered // loop.period, "covered": loop.covered}
        reason = f"{grade.name.lower()}: a unit repeats with other numbers"
        return Finding("loop.counter", grade, channel, position, began, reason, evidence)


def _number(text: str) -> int:
    """The last number in it: tokens that go on with digits continue that one."""
    found = _DIGIT_RUN.findall(text)
    return int(found[-1]) if found else 0
