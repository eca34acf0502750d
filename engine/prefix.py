"""Prefix reuse between turns: the last few sequences are kept, and a new prompt starts from what it shares with one.

Must not: hand the same sequence to two turns, reuse anything by text (tokens decide), or lend what shares rows with a
prefix that a trusted rewind has refused (`Lineage`).
Invariant: a sequence is either kept or lent out, never both; forking copies and never changes its source. What a
prompt yields does not depend on what is kept (`Sequence.reusable`), only how soon.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Tokens

from engine.codecs.spec import FULL
from engine.sequence import Sequence
from engine.state import live_bytes


class PrefixStore:
    """Keeps at most `capacity` finished sequences of at most `max_bytes` together, least recently used out first.

    make: a new, empty sequence. max_bytes: None = no limit. Raises ValueError that names the field.
    """

    def __init__(self, make: Callable[[], Sequence], capacity: int = 4, max_bytes: int | None = None) -> None:
        if capacity < 0:
            raise ValueError("capacity: must be 0 or more sequences")
        if max_bytes is not None and max_bytes < 0:
            raise ValueError("max_bytes: must be 0 or more, or None for no limit")
        self.make = make
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._kept: list[Sequence] = []
        self._lent: list[Sequence] = []

    def __len__(self) -> int:
        """Kept sequences; those lent out do not count."""
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that kept and lent sequences hold."""
        return live_bytes(sequence.state for sequence in (*self._kept, *self._lent))

    def take(self, prompt: Tokens[int], codec: str = FULL) -> Sequence:
        """Lends a sequence for a prompt; which one decides what need not be prefilled. A prefix that was written by the
        rules of another codec is none.

        A kept sequence is lent itself when the prompt can take over all that is reusable in it: the usual next request
        of an agent. One of which the prompt shares a part (another task behind the same system prompt and tools), and
        one that is lent out, is forked.
        """
        self._kept = [sequence for sequence in self._kept if sequence.lineage.sound]
        best, reused = None, 0
        for sequence in (*reversed(self._kept), *self._lent):
            fits = sequence.intact and sequence.sound and sequence.lineage.sound and sequence.holds(codec)
            shared = sequence.reusable(prompt) if fits else 0
            if shared > reused:
                best, reused = sequence, shared
        if best is None:
            lent = self.make()
            lent.use(codec)
        elif best in self._kept and reused == best.reusable(best.tokens):
            self._kept.remove(best)
            lent = best
        else:
            lent = best.fork(reused, self.make())
        self._lent.append(lent)
        return lent

    def fork(self, prompt: Tokens[int], codec: str, into: Sequence) -> bool:
        """Makes `into`, a sequence that is nobody's, hold what a prompt shares with a kept or lent one, the latest of
        the best; whether there is one. What is kept does not change, nor its order."""
        best, reused = None, 0
        for sequence in (*reversed(self._lent), *reversed(self._kept)):
            shared = sequence.reusable(prompt) if sequence.intact and sequence.holds(codec) else 0
            if shared > reused:
                best, reused = sequence, shared
        if best is not None:
            best.fork(reused, into)
        return best is not None

    def put(self, sequence: Sequence) -> None:
        """Takes a lent sequence back; what was used longest ago is dropped when there is no room."""
        self.drop(sequence)
        # half codes, half raw rows: nobody could take it over
        if not (sequence.sound and sequence.lineage.sound and sequence.holds(sequence.codec)):
            return
        sequence.state.skip_log(0)  # only prefilled positions are reused, so nobody rewinds into the response again
        self._kept.append(sequence)
        del self._kept[: max(len(self._kept) - self.capacity, 0)]
        if self.max_bytes is not None:
            while self._kept and live_bytes(kept.state for kept in self._kept) > self.max_bytes:
                del self._kept[0]

    def drop(self, sequence: Sequence) -> None:
        """Forgets a lent sequence, for instance one that an exception has left half changed."""
        self._lent = [lent for lent in self._lent if lent is not sequence]

    def distrust(self, codec: str) -> int:
        """A cache of this codec was found damaged, and no moment is known up to which others were sound: what is kept
        of it is dropped, what is lent is not reused. Returns how many sequences that concerns."""
        bad = [sequence for sequence in (*self._kept, *self._lent) if sequence.codec == codec]
        self._kept = [sequence for sequence in self._kept if sequence.codec != codec]
        for sequence in bad:
            sequence.sound = False
        return len(bad)

    def clear(self) -> None:
        """Forgets every kept sequence."""
        self._kept.clear()
