"""The interface between the verify loop and whoever guesses tokens.

Must not: know any drafter.
Invariant: a drafter sees every committed token exactly once and in order, and nothing else; a rewind is
announced by `truncate` before anything new arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Drafter(Protocol):
    """Guesses what comes next in one sequence. Called by one thread, between device steps."""

    name: str

    def begin(self, tokens: Sequence[int]) -> None:
        """Forgets everything; the sequence's tokens so far are `tokens` (may be empty)."""
        ...

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        """`tokens` were committed after what is known.

        hidden: [len(tokens), H], the target's post-final-norm rows from which each of them was predicted (the
        row of the token before it); None where the caller has none. Must not be kept beyond the call unless
        copied.
        """
        ...

    def propose(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next; empty = no guess. Does not change what is known."""
        ...

    def feedback(self, drafted: int, accepted: int) -> None:
        """Of the last proposal `drafted` tokens were verified and the first `accepted` were right."""
        ...

    def truncate(self, length: int) -> None:
        """The sequence was rewound: of the known tokens the first `length` remain. No effect if not fewer."""
        ...

    def adopt(self, other: Drafter, tokens: Sequence[int]) -> None:
        """Becomes a copy of `other`, a drafter of the same kind, that only knows `tokens`, the first of its own.

        What it keeps in the sequence's state has been copied already.
        """
        ...
