"""Prefix reuse between turns: the last few sequences are kept, and a new prompt takes the one it shares most with.

Must not: hand the same sequence to two turns, or reuse anything by text (tokens decide).
Invariant: a sequence is either in the store or lent out, never both.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens

from engine.sequence import Sequence, common_prefix


class PrefixStore:
    """Keeps at most `capacity` finished sequences, least recently used out first.

    min_shared: a kept sequence is taken for a prompt only when they share at least this many tokens, so that an
    unrelated request does not destroy somebody's long context.
    """

    def __init__(self, make: Callable[[], Sequence], capacity: int = 4, min_shared: int = 16) -> None:
        if capacity < 0:
            raise ValueError("capacity: must be 0 or more sequences")
        self.make = make
        self.capacity = capacity
        self.min_shared = min_shared
        self._kept: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, prompt: Tokens[int]) -> Sequence:
        """Lends the kept sequence with the longest common prefix, or a new one.

        A sequence that the prompt extends wins at once; one that it leaves halfway (another task behind the same
        system prompt) is only taken when the shared part is most of it.
        """
        best, shared = None, 0
        for sequence in self._kept:
            common = common_prefix(sequence.tokens, prompt)
            if common > shared:
                best, shared = sequence, common
        if best is None or shared < max(self.min_shared, len(best.tokens) // 2):
            return self.make()
        self._kept.remove(best)
        return best

    def put(self, sequence: Sequence) -> None:
        """Gives a sequence back; the least recently used one is dropped when the store is full."""
        self._kept.append(sequence)
        del self._kept[: max(len(self._kept) - self.capacity, 0)]

    def clear(self) -> None:
        """Forgets every kept sequence."""
        self._kept.clear()
