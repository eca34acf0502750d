"""Which layer is to blame for a trip: compares what was discarded with what plain decoding says instead.

Must not: call anything certain that rests on a backend without bitwise exactness.
Invariant: a verdict never gets weaker by more tokens; the first difference decides.

With the same seed a sound speculation and plain decoding give the same tokens, so one difference convicts
what was switched off. If plain decoding says the same again, nothing that was switched off is to blame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from policies.modes import PLAIN, DecodeMode

PROOF_TOKENS = 64
END_OF_TURN = -1
"""Stands among the compared ids where the model ended its turn: going on instead is a difference too."""
NOT_FINITE = -2
"""Stands for a discarded token whose numbers were none: any finite one differs from it."""


class Culprit(StrEnum):
    """The layers of the engine that can be at fault, the model itself, or nobody that is known.

    PREFIX: a prefix that was taken over; FILTER: decoding under a constraint.
    """

    SPECULATION = "speculation"
    KV = "kv"
    PREFIX = "prefix"
    FILTER = "filter"
    MODEL = "model"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BlameVerdict:
    """first_difference: index into the response's tokens, None = none was seen.

    discarded, redecoded: at most PROOF_TOKENS ids around it (or from the start of the comparison), from `at`
    on. compared: tokens that were compared.
    """

    culprit: Culprit
    certainty: Literal["certain", "likely", "none"]
    first_difference: int | None
    compared: int
    at: int
    discarded: tuple[int, ...]
    redecoded: tuple[int, ...]


class Blame:
    """One comparison. start: index of the first discarded token; began: first token that the finding accuses.

    exact: the backend passed its bitwise self-test. audited: a recomputed step already proved the fault.
    proven: whose fault the finding itself proves. after: the safer mode that is compared with. shared: the rewind has
    computed more again than drafts can have touched (a prefix that was taken over, a cache in doubt), or numbers were
    lost, which may happen once and anywhere: a difference may come from there too.
    """

    def __init__(
        self,
        before: DecodeMode,
        start: int,
        discarded: Sequence[int],
        *,
        began: int,
        exact: bool,
        audited: bool = False,
        proven: Culprit | None = None,
        after: DecodeMode = PLAIN,
        shared: bool = False,
    ) -> None:
        self._before, self._after = before, after
        self._start = start
        self._discarded = tuple(discarded)
        self._redecoded: list[int] = []
        self._difference: int | None = None
        self._whole = start <= began
        self._exact, self._shared = exact, shared
        self._proven = Culprit.SPECULATION if audited else proven
        self._recurred = False

    @property
    def differs(self) -> bool:
        return self._difference is not None

    def redecoded(self, position: int, token: int) -> None:
        """Takes the token that now stands at `position`, in order; ignored beyond the comparison."""
        index = position - self._start
        window = (self._difference or 0) + PROOF_TOKENS
        if index != len(self._redecoded) or (self._difference is not None and index >= window):
            return
        if index < len(self._discarded):
            self._redecoded.append(token)
            if self._difference is None and token != self._discarded[index]:
                self._difference = index

    def recur(self) -> None:
        """The same finding came again in plain decoding."""
        self._recurred = True

    def verdict(self) -> BlameVerdict:
        culprit, certainty = self._judge()
        low = max(0, (self._difference or 0) - PROOF_TOKENS // 4)
        return BlameVerdict(
            culprit,
            certainty,
            None if self._difference is None else self._start + self._difference,
            len(self._redecoded),
            self._start + low,
            self._discarded[low : low + PROOF_TOKENS],
            tuple(self._redecoded[low : low + PROOF_TOKENS]),
        )

    def _judge(self) -> tuple[Culprit, Literal["certain", "likely", "none"]]:
        if self._proven is not None:
            return self._proven, "certain"
        if self._difference is not None:
            if self._before == self._after:
                return Culprit.KV, "likely"  # nothing but the caches was computed anew
            undrafted, restored = self._before.drafter != self._after.drafter, self._before.codec != self._after.codec
            if undrafted and restored:
                return Culprit.UNKNOWN, "none"  # two things were switched off at once
            if restored:
                return Culprit.KV, "likely"
            if undrafted:
                return Culprit.SPECULATION, "certain" if self._exact and not self._shared else "likely"
            return Culprit.UNKNOWN, "none"
        reproduced = bool(self._discarded) and len(self._redecoded) == len(self._discarded)
        if (self._recurred or reproduced) and self._after == PLAIN:  # else what is still switched on may be to blame
            return Culprit.MODEL, "certain" if self._exact and self._whole else "likely"
        return Culprit.UNKNOWN, "none"
