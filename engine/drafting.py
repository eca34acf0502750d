"""Drafting for one turn: who is asked, in which order, for how many tokens, and what they hear of the outcome.

Must not: change what is generated; a draft costs or saves time.
Invariant: a proposal that was verified is judged once by the committed tokens, and so is one that stood back for it.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from engine.sequence import Sequence

SHORT = "ngram-short"
DRAFT_ORDER = {
    "none": (),
    "ngram": ("ngram", SHORT),
    "mtp": ("mtp",),
    "mtp+ngram": ("ngram", SHORT, "mtp"),
}
"""Who is asked, in this order. A short match is only a hint: it stands back where the next one promises more."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens to be verified (none: an ordinary decode) and who guessed them."""

    source: str
    tokens: list[int]


class Drafting:
    """Of one turn, with the drafters and the pacer of its sequence."""

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._unused: list[int] = []

    def ask(self, setting: str, limit: int) -> Draft:
        """At most `limit` tokens, and no more than a step can verify. setting: a key of DRAFT_ORDER, or the name of any
        drafter of the sequence."""
        self._unused = []
        sequence, pacer, hint = self._sequence, self._sequence.pacer, list[int]()
        limit = min(limit, sequence.model.rows - 1)
        if limit <= 0:
            return Draft("none", [])
        for name in DRAFT_ORDER.get(setting, (setting,)):
            drafter = sequence.drafters.get(name)
            length = pacer.length(name, limit, len(sequence.tokens)) if drafter is not None else 0
            if drafter is None or not length:
                continue
            if hint and pacer.gain(SHORT, len(hint)) >= pacer.gain(name, length):
                break
            drafts = drafter.propose(length)[:length]
            if name == SHORT:
                hint = drafts
            elif drafts:
                self._unused = hint
                return Draft(name, drafts)
        return Draft(SHORT, hint) if hint else Draft("none", [])

    def judge(self, draft: Draft, accepted: int, new: Tokens[int]) -> str | None:
        """Tells who proposed and the pacer how it went; the name of a drafter whose end this was.

        accepted: tokens of the draft; new: the committed tokens. A hint that stood back is judged by them too; else it
        would never be asked again. A draft of no tokens tells nothing.
        """
        if not draft.tokens:
            return None
        pacer, hint, self._unused = self._sequence.pacer, self._unused[: len(new)], []
        right = next((i for i, token in enumerate(hint) if token != new[i]), len(hint))
        hint_died = pacer.feedback(SHORT, len(hint), right)
        self._sequence.drafters[draft.source].feedback(len(draft.tokens), accepted)
        if pacer.feedback(draft.source, len(draft.tokens), accepted):
            return draft.source
        return SHORT if hint_died else None
