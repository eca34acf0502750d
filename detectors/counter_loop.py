"""Counter loops: an exact loop once every number is taken for the same number.

Must not: speak of units without a word and a number (tables of numbers; exact loops), or of tool arguments.
Invariant: digits that follow each other count as one symbol, however they were tokenised.
"""

from __future__ import annotations

from array import array

from detectors.finding import Finding
from detectors.period import Loop, Periods, Thresholds
from detectors.token_text import NUMBER, WORD, TokenText

_DIGITS = NUMBER
_KEPT = 4096


class CounterLoop:
    """Feeds on the texts of one channel."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._periods = Periods()
        self._positions = array("Q")
        self.reset()

    def reset(self) -> None:
        self._periods.reset()
        self._in_number = False
        self._counts: dict[int, bool] = {}
        del self._positions[:]
        self.loop: Loop | None = None

    def push(self, position: int, facts: TokenText) -> Loop | None:
        """Takes one token's text; answers what goes on now."""
        if facts.digits:
            if self._in_number:
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
        if runs:
            self.loop = self._judge()
        elif self.loop is not None or self._counts:
            self.loop = None
            self._counts.clear()
        return self.loop

    def _judge(self) -> Loop | None:
        loop = self._periods.worst(self._thresholds)
        if loop is None:
            return None
        if loop.period not in self._counts:
            unit = self._periods.last(loop.period)
            self._counts[loop.period] = any(s & NUMBER for s in unit) and any(s & WORD for s in unit)
        return loop if self._counts[loop.period] else None

    def finding(self, channel: str, position: int) -> Finding:
        """What is told at the token at which a grade was reached; period and copies count symbols, not tokens."""
        loop = self.loop
        assert loop is not None
        began = self._positions[max(-len(self._positions), loop.period - loop.covered)]
        evidence = {"period": loop.period, "copies": loop.covered // loop.period, "covered": loop.covered}
        reason = f"{loop.grade.name.lower()}: a unit repeats with other numbers"
        return Finding("loop.counter", loop.grade, channel, position, began, reason, evidence)
