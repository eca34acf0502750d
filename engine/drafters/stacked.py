"""Several drafters in order of preference; `mtp+ngram` is n-gram first, MTP where it has nothing.

Must not: mix two drafters' tokens in one proposal.
Invariant: every drafter sees every committed token and every rewind, whoever proposed; feedback reaches only
the one that proposed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from engine.drafters.base import Drafter


class StackedDrafter:
    """The first drafter with something to propose wins. `source`: name of the last proposer, `none` if
    nobody.

    Raises ValueError if there is no drafter or two have the same name.
    """

    def __init__(self, drafters: Sequence[Drafter], name: str = "") -> None:
        names = [drafter.name for drafter in drafters]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"drafters: need one or more with different names, not {names}")
        self.drafters = tuple(drafters)
        self.name = name or "+".join(reversed(names))
        self.source = "none"
        self._proposer: Drafter | None = None

    def begin(self, tokens: Sequence[int]) -> None:
        """Forgets everything; see `Drafter.begin`."""
        for drafter in self.drafters:
            drafter.begin(tokens)
        self._nobody()

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        """Passes committed tokens to all; see `Drafter.extend`."""
        for drafter in self.drafters:
            drafter.extend(tokens, hidden)

    def propose(self, limit: int) -> list[int]:
        """The proposal of the first drafter that has one, at most `limit` tokens."""
        self._nobody()
        if limit <= 0:
            return []
        for drafter in self.drafters:
            drafts = drafter.propose(limit)[:limit]
            if drafts:
                self.source, self._proposer = drafter.name, drafter
                return drafts
        return []

    def feedback(self, drafted: int, accepted: int) -> None:
        """Tells the one that proposed last; nobody if there was no proposal."""
        if self._proposer is not None:
            self._proposer.feedback(drafted, accepted)

    def truncate(self, length: int) -> None:
        """Passes a rewind to all; see `Drafter.truncate`."""
        for drafter in self.drafters:
            drafter.truncate(length)
        self._nobody()

    def adopt(self, other: Drafter, tokens: Sequence[int]) -> None:
        """Each of the drafters adopts its counterpart."""
        if not isinstance(other, StackedDrafter) or len(other.drafters) != len(self.drafters):
            raise TypeError(f"drafter {self.name}: cannot adopt a {type(other).__name__}")
        for mine, theirs in zip(self.drafters, other.drafters, strict=True):
            mine.adopt(theirs, tokens)
        self._nobody()

    def _nobody(self) -> None:
        self.source, self._proposer = "none", None
