"""The number that is open: its grammar, and its checks at the byte that ends it.

Must not: decide a number earlier: `250` may become `250e-1`, and `10.` may become the integer `10.0`.
Invariant: its value is the one that Python's parser gives the final verdict.
"""

from __future__ import annotations

import math

from detectors.json_stream.compiled import CompiledSchema
from detectors.json_stream.nodes import NUMBER
from detectors.json_stream.open_string import S_AFTER, S_END, S_NUMBER, OpenString
from detectors.json_stream.trip import Rules


def _number_steps() -> dict[int, int]:
    """(state << 8 | byte) -> state: 1 sign, 2 zero, 3 integer, 4 point, 5 fraction, 6 e, 7 its sign, 8 exponent."""
    steps = {1 << 8 | 48: 2}
    for digit in b"0123456789":
        for before, after in ((3, 3), (4, 5), (5, 5), (6, 8), (7, 8), (8, 8)):
            steps[before << 8 | digit] = after
        if digit != 48:
            steps[1 << 8 | digit] = 3
    for whole in (2, 3):
        steps[whole << 8 | 46] = 4
    for before in (2, 3, 5):
        steps |= {before << 8 | 101: 6, before << 8 | 69: 6}
    return steps | {6 << 8 | 43: 7, 6 << 8 | 45: 7}


_NUMBER_STEPS = _number_steps()
_NUMBER_ENDS = frozenset({2, 3, 5, 8})


class OpenNumber(OpenString):
    """At most one number is open."""

    __slots__ = ("_number", "_number_state")

    def __init__(self, compiled: CompiledSchema, rules: Rules) -> None:
        super().__init__(compiled, rules)
        self._number, self._number_state = b"", 0

    def _number_begins(self, c: int) -> None:
        self._number, self._number_state = bytes((c,)), 1 if c == 45 else 2 if c == 48 else 3

    def _digits(self, data: bytes, i: int, base: int) -> tuple[int, int]:
        state, start, n = self._number_state, i, len(data)
        while i < n and (following := _NUMBER_STEPS.get(state << 8 | data[i])):
            state = following
            i += 1
        self._number += data[start:i]
        self._number_state = state
        longest = self.rules.number
        if longest is not None and len(self._number) > longest:
            self._at = base + i - (len(self._number) - longest)
            self._fail("limit_number")
        elif i < n:
            self._at = base + i
            if state not in _NUMBER_ENDS:
                self._fail("syntax")
            else:
                self._number_ends()
                return i, S_AFTER if self._stack else S_END
        return i, S_NUMBER

    def _number_ends(self) -> None:
        text = self._number
        is_whole = not (b"." in text or b"e" in text or b"E" in text)
        checks = self._link.plan.numbers
        if not is_whole and self.rules.number is not None and not math.isfinite(float(text)):
            self._fail("limit_number")
            return
        if checks:
            try:
                value = int(text) if is_whole else float(text)
            except ValueError:  # more digits than Python converts
                self._fail("limit_number")
                return
            self._dead = self._check_whole(self._dead, self._link, checks, value)
        if self.trip is None:
            self._end_scalar(NUMBER, self._dead)
