"""Exact loops in bytes, for upstreams that send text without token ids.

Must not: be fed with text that was tokenised anew: merges fold what repeats (300 newlines are a handful of tokens).
Invariant: the bytes at which a finding was complete and began do not depend on how the text was cut into pieces.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from detectors.finding import Finding, Grade
from detectors.loop_settings import LoopSettings
from detectors.period import Loop, Periods

MAX_PERIOD = 8192
SHORT_UNIT = 8
"""Bytes below which a unit is a ruler or a row of dots rather than words."""
_PIECES = 4 * MAX_PERIOD  # as many bytes as are kept


class ByteLoops:
    """Feeds on the UTF-8 bytes of one channel, a piece at a time; positions rise from piece to piece.

    About 0.5 us per byte. A finding's position and began are those of pieces; its evidence names the bytes.
    """

    def __init__(self, settings: LoopSettings | None = None, channel: str = "text") -> None:
        self._settings = settings or LoopSettings()
        self._periods = Periods(MAX_PERIOD)
        self._starts = array("I")  # the first byte of each piece
        self._pieces = array("I")  # its position
        self.reset(channel)

    @property
    def grade(self) -> Grade | None:
        """How grave what goes on right now is."""
        return self._grade

    def reset(self, channel: str) -> None:
        """Another channel begins, or the same one anew."""
        self.channel = channel
        self._periods.reset()
        del self._starts[:], self._pieces[:]
        self._grade: Grade | None = None
        self._told: Grade | None = None

    def feed(self, position: int, data: bytes) -> list[Finding]:
        """Takes a piece, which may be empty; answers what became graver in it."""
        self._starts.append(self._periods.count)
        self._pieces.append(position)
        if len(self._starts) == 2 * _PIECES:
            del self._starts[:_PIECES], self._pieces[:_PIECES]
        found = []
        push = self._periods.push
        for byte in data:
            if not push(byte):
                self._grade = self._told = None
                continue
            loop = self._periods.worst(self._reached)
            self._grade = loop.grade if loop is not None else None
            if loop is not None and (self._told is None or loop.grade > self._told):
                self._told = loop.grade
                found.append(self._finding(loop, position))
        return found

    def _reached(self, period: int, covered: int) -> Grade | None:
        settings = self._settings
        if self.channel.startswith("tool:"):
            return settings.byte_arguments.reached(period, covered)
        chosen = settings.byte_text_short if period < SHORT_UNIT else settings.byte_text
        return chosen.reached(period, covered)

    def _finding(self, loop: Loop, position: int) -> Finding:
        last = self._periods.count - 1
        first = last - loop.covered + 1 + loop.period
        piece = self._pieces[max(0, bisect_right(self._starts, first) - 1)]
        evidence = {
            "period": loop.period,
            "copies": loop.covered // loop.period,
            "covered": loop.covered,
            "byte": last,
            "began_byte": first,
        }
        reason = f"{loop.grade.name.lower()}: bytes repeat"
        return Finding("loop.bytes", loop.grade, self.channel, position, piece, reason, evidence)
