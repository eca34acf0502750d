"""Which kind of text a stream is in: prose, a fenced code block, or a run of base64.

Must not: parse Markdown further than its fences, or hold text back.
Invariant: the region is a function of the channel's text so far, whatever its tokens.

Code and data repeat by right, so the loop detectors judge them by other numbers.
"""

from __future__ import annotations

from enum import Enum

from detectors.token_text import TokenText


class Region(Enum):
    """Where the last token ended."""

    PROSE = "prose"
    CODE = "code"
    BASE64 = "base64"


PROSE, CODE, BASE64 = Region
"""As names of their own, which are read faster than members."""


class Regions:
    """fences: whether ``` at the start of a line opens a code block (in tool arguments it does not).

    base64_chars: so many characters of the base64 alphabet without a blank, a capital among them, are base64.
    """

    def __init__(self, fences: bool = True, base64_chars: int = 256) -> None:
        self._fences = fences
        self._base64_chars = base64_chars
        self.reset(fences)

    def reset(self, fences: bool) -> None:
        """Starts a channel."""
        self._fences = fences
        self._run, self._capital = 0, False
        self._code = self._closed = False
        self._line_start, self._ticks = True, 0

    def feed(self, text: str, facts: TokenText) -> Region:
        """Takes a token's text."""
        if facts.breaks:
            self._run, self._capital = facts.base64, facts.capital
        else:
            self._run += facts.chars
            self._capital = self._capital or facts.capital
        if self._fences and (self._line_start or self._ticks or facts.marks):
            self._read_line(text)
        if self._run >= self._base64_chars and self._capital:
            return BASE64
        return CODE if self._code else PROSE

    def _read_line(self, text: str) -> None:
        for char in text:
            if char == "\n":
                self._line_start, self._ticks, self._closed = True, 0, False
            elif char == "`" and (self._line_start or self._ticks):
                self._line_start = False
                self._ticks += 1
                if self._ticks == 3:
                    self._closed, self._code = self._code, not self._code
            elif self._line_start and char in " \t":
                pass
            else:
                if self._closed and not char.isspace() and char != "`":  # it has a name: a fence inside of the block
                    self._code, self._closed = True, False
                self._line_start = False
                if not char.isspace() and not self._closed:
                    self._ticks = 0
