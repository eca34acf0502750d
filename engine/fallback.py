"""The way back from a compressed cache in the middle of a response.

L0 keeps the cache and only stops drafting; L1 stops quantising, so that what comes is stored as computed; L2 takes the
prompt's rows from a full-precision shadow and decodes the response again; L3 prefills again as well. What codes have
lost cannot be computed back from them, so L2 and L3 alone cure a cache.

Must not: decide whether to fall back (policies do), or promise a level that does not fit.
Invariant: after L2 and L3 the state has the bits that `plain/full` has for these tokens, along the recorded provenance.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.codecs.spec import FULL
from engine.reports import Level
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class FallBack:
    """level: what was done; rebuilt: tokens computed again."""

    level: Level
    rebuilt: int


def best_level(sequence: Sequence, codec: str) -> Level:
    """The deepest level that a switch to `codec` can have: L2 and L3 need room for a full cache.

    Raises ValueError for a switch between two compressed codecs: there is nothing to convert from.
    """
    if codec == sequence.codec:
        return "L0"
    if codec != FULL:
        raise ValueError(f"codec: cannot switch from {sequence.codec!r} to {codec!r}; only to {FULL!r}")
    if not sequence.can_fit(FULL, sequence.longest):
        return "L1"
    return "L3" if sequence.state.shadow is None else "L2"


def fall_back(sequence: Sequence, length: int, codec: str, *, trusted: bool, clean: bool = False) -> FallBack:
    """Keeps the first `length` tokens, the next one pending, and goes on with `codec` or the nearest thing to it.

    trusted: generated tokens are decoded one at a time, as `Sequence.rewind` does. clean: the caches are accused, so
    nothing of them is kept: where they would stay (L0, and L1 for want of room), all is computed again by their own
    rules, which is L3 without a change of codec. Raises ValueError as `Sequence.rewind` does.
    """
    level = best_level(sequence, codec)
    if clean and level in ("L0", "L1"):
        return FallBack("L3", sequence.rebuild(length))
    if level in ("L2", "L3"):
        return FallBack(level, sequence.restore(length, trusted=trusted))
    rebuilt = sequence.rewind(length, trusted=trusted)
    if level == "L1":
        sequence.stop_quantising()
    return FallBack(level, rebuilt)
