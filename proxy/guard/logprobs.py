"""Which tokens' log-probabilities go with a piece of text: each token of the text once, in order, none of a tool call.

Must not: release anything; it follows what the hold-back releases. Or report a number that nobody has told.
Invariant: a token is reported with the first text that it completes. Tokens directly before it that completed none (a
part of a character, text that the engine held back for a stop string) are reported with it. A rewind never goes
before what was released, so nothing that was reported has to be taken back.
"""

from __future__ import annotations

from proxy.backends.base import Token
from proxy.events import Logprob
from proxy.guard.transcript import Transcript


class LogprobLedger:
    """Reads tokens from the transcript of the response."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._next = 0
        """Tokens before it were reported, or belong to something that is no text."""

    def due(self, position: int) -> tuple[Logprob, ...]:
        """What goes with text of the token at `position`; empty if that token was reported already."""
        position = min(position, len(self._transcript) - 1)
        first = position
        while first > self._next and not self._transcript[first - 1].text:
            first -= 1
        due = range(max(first, self._next), position + 1)
        self._next = max(self._next, position + 1)
        tokens = (self._transcript[index] for index in due)
        return tuple(_logprob(token) for token in tokens if token.logprob is not None)


def _logprob(token: Token) -> Logprob:
    top = tuple((other.data, other.logprob) for other in token.top)
    return Logprob(token.data, 0.0 if token.logprob is None else token.logprob, top)
