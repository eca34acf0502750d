"""What a client gets of the thoughts that another server begins its attempt with, behind those that it has already.

Must not: keep anything from those who watch, or take away what is said behind those first thoughts.
Invariant: nothing that the client has is told again, and no second block of thinking is begun for it.

A server that goes on for another one cannot be given its thoughts, so it thinks from the beginning. Where the delivered
thoughts had come to their end, its own are a second version of them, and are not told. Where they were broken off, they
go on as far as it says the same; if it thinks otherwise, the client gets that whole, in the same block.
"""

from __future__ import annotations

BREAK = "\n\n"
"""Between thoughts that were broken off and others in their place."""


class SecondThoughts:
    """first: position of the attempt's first token. delivered: thoughts that were broken off, None = the client's block
    has come to its end."""

    def __init__(self, first: int, delivered: str | None) -> None:
        self.first = first
        self._delivered = delivered
        self._same = 0
        self._passes = False

    @property
    def passes(self) -> bool:
        """Does it think otherwise? Then the client gets all of it, what was kept from it until now included."""
        return self._passes

    def deliver(self, text: str) -> None:
        """A rest of the first thoughts, which was held back until now, has left."""
        if self._delivered is not None:
            self._delivered += text

    def take(self, text: str) -> str:
        """What of the attempt's next thoughts the client gets now; "" = nothing."""
        if self._passes:
            return text
        delivered = self._delivered
        if delivered is None:
            return ""
        known = min(len(text), len(delivered) - self._same)
        if delivered.startswith(text[:known], self._same):
            self._same += known
            return text[known:]
        self._passes = True
        return BREAK + delivered[: self._same] + text
