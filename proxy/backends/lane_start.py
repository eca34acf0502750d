"""A continuation on another lane: what of its beginning was delivered already.

Must not: take away anything but an exact copy of what was sent.
Invariant: what passes, behind what was delivered, is the response as it goes on.

Chat templates cut the white space at the end of a message that is to be continued, so the lane may begin with it; some
servers repeat the whole message before they go on.
"""

from __future__ import annotations

SHORTEST_ECHO = 8
"""Characters below which a repetition is more likely meant than an echo, of servers that are not known to echo."""


class Continuation:
    """delivered: text that the client has. `prefill` is what the lane is given of it. echoes: its kind of server says
    it again (llama.cpp)."""

    def __init__(self, delivered: str, echoes: bool = False) -> None:
        self.prefill = delivered.rstrip()
        self._space = delivered[len(self.prefill) :]
        self._echo = self.prefill if echoes or len(self.prefill) >= SHORTEST_ECHO else ""
        self._held = ""

    @property
    def is_open(self) -> bool:
        """Is it still being compared?"""
        return bool(self._echo or self._space)

    def take(self, text: str) -> str:
        """What of the lane's next text is new."""
        if self._echo:
            self._held += text
            if self._echo.startswith(self._held):
                if self._held == self._echo:
                    self._echo = self._held = ""
                return ""
            text = self._held.removeprefix(self._echo) if self._held.startswith(self._echo) else self._held
            self._echo = self._held = ""
        while self._space and text:
            if text[0] != self._space[0]:
                self._space = ""
                break
            text, self._space = text[1:], self._space[1:]
        return text

    def finish(self) -> str:
        """What was held for a comparison that did not come to its end."""
        held, self._held, self._echo = self._held, "", ""
        return held
