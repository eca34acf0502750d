"""Finds stop strings in a stream of text pieces.

Must not: hold back more than what may still become a stop string.
Invariant: what is released and what is hit depends on the text alone, not on how it was cut into pieces. The
first stop string to be complete wins; of several that end at the same character, the longest.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Knuth-Morris-Pratt for every stop string side by side: each character costs O(1) amortised per stop
    string.

    Raises ValueError if a stop string is empty. After a rewind make a new one and feed it the text that is
    left.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        # longest first: of several that end together it is the one to report
        self.stops = tuple(sorted(dict.fromkeys(stops), key=len, reverse=True))
        if "" in self.stops:
            raise ValueError("stops: a stop string must not be empty")
        self.hit: str | None = None
        self._failure = [_failure(stop) for stop in self.stops]
        self._matched = [0] * len(self.stops)
        self._held = ""

    @property
    def held(self) -> str:
        """Text that was fed and not released yet."""
        return self._held

    def feed(self, piece: str) -> tuple[str, str | None]:
        """Takes the next piece; returns the text that is safe to release and the stop string that was hit, if
        any.

        The stop string and what follows it are never released; after a hit every further call gives ("",
        hit).
        """
        if self.hit is not None:
            return "", self.hit
        if not self.stops:
            return piece, None
        text = self._held + piece
        start = len(self._held)
        for index in range(start, len(text)):
            found = self._advance(text[index])
            if found is not None:
                self.hit, self._held = found, ""
                return text[: index + 1 - len(found)], found
        keep = max(self._matched)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """The stream has ended: releases what was held back."""
        text, self._held = self._held, ""
        self._matched = [0] * len(self.stops)
        return text

    def _advance(self, char: str) -> str | None:
        found = None
        for which, stop in enumerate(self.stops):
            matched = self._matched[which]
            while matched and stop[matched] != char:
                matched = self._failure[which][matched - 1]
            if stop[matched] == char:
                matched += 1
            if matched == len(stop):
                if found is None:
                    found = stop
                matched = 0
            self._matched[which] = matched
        return found


def _failure(pattern: str) -> list[int]:
    """For every prefix: length of its longest proper prefix that is also its suffix."""
    table = [0] * len(pattern)
    matched = 0
    for index in range(1, len(pattern)):
        while matched and pattern[index] != pattern[matched]:
            matched = table[matched - 1]
        if pattern[index] == pattern[matched]:
            matched += 1
        table[index] = matched
    return table
