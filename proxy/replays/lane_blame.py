"""Who is to blame for a trip of a lane: what it said is compared with what the other lane says instead.

Must not: call anything certain; two servers are compared, and nobody vouches for either.
Invariant: a difference in what is said convicts a layer of the engine only if the tokens differ too, where they are
told: the same tokens read otherwise are the server's parser.
"""

from __future__ import annotations

from dataclasses import replace

from policies.blame import Blame, BlameVerdict, Culprit
from proxy.backends.base import Token
from proxy.guard.spelling import Spelling


class LaneBlame:
    """words: compares what is said, as `Spelling` has it; ids: the tokens, None where they are not told."""

    def __init__(self, words: Blame, ids: Blame | None, start: int) -> None:
        self._words, self._ids = words, ids
        self._spelling, self._spelt = Spelling(), start

    @property
    def differs(self) -> bool:
        return self._words.differs

    def redecoded(self, position: int, token: int, said: Token | None) -> None:
        """Takes the token that now stands at `position`. said: with its text, None = the turn has ended."""
        if self._ids is not None:
            self._ids.redecoded(position, token)
        for letter in (token,) if said is None else self._spelling.spell(said):
            self._words.redecoded(self._spelt, letter)
            self._spelt += 1

    def recur(self) -> None:
        """The same finding came again on the other lane."""
        self._words.recur()
        if self._ids is not None:
            self._ids.recur()

    def verdict(self) -> BlameVerdict:
        words = self._words.verdict()
        if self._ids is None:
            return words
        ids = self._ids.verdict()
        if self._words.differs and not self._ids.differs:
            return replace(ids, culprit=Culprit.UNKNOWN, certainty="none")
        return ids
