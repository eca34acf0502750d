"""Shadow check: a position computed again from a clean cache, to see what the cache in use has come to.

Must not: touch the sequence that is checked, or read anything of its cache.
Invariant: the clean state follows the sequence's provenance (prefilled in the same chunks, generated tokens through the
decode path), so with the codec `full` on an exact device a sound cache gives the same logits in every bit.

An audit recomputes rows on a copy of the cache, so it cannot see a damaged cache: this can. Cost of the first check of
a turn: its prompt prefilled once more; of each later one: the tokens since then, `rows` at a time (an eighth of their
decode steps). Memory: a second state of the sequence for the rest of the turn.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from engine.bits import equal
from engine.checks import doubt
from engine.model import Model
from engine.reports import ShadowReport
from engine.sequence import Sequence
from engine.state import SequenceState


class ShadowCheck:
    """The clean state of one turn. valid_tokens: ids below this one are real."""

    def __init__(self, model: Model, valid_tokens: int) -> None:
        self._model, self._valid = model, valid_tokens
        self._state: SequenceState | None = None

    def reset(self) -> None:
        """The sequence was rewound: what comes may differ from what was followed."""
        self._state = None

    @torch.inference_mode()
    def check(self, sequence: Sequence, position: int, logits: Tensor) -> ShadowReport:
        """logits: float32 [V] that the sequence's own state gave for its pending token; position: index of the
        generated token that they predict."""
        started = time.perf_counter()
        state = self._follow(sequence)
        clean = self._model.decode(state, [sequence.tokens[-1]]).logits[0, : self._valid]
        logits = logits[: self._valid]
        identical = equal(clean, logits)
        agrees, kl = (True, 0.0) if identical else compare(clean, logits)
        return ShadowReport(position, agrees, identical, kl, doubt(clean), (time.perf_counter() - started) * 1e3)

    def _follow(self, sequence: Sequence) -> SequenceState:
        if self._state is None:
            self._state = self._model.new_state()
        state = self._state
        for segment in sequence.provenance:
            start = max(segment.start, state.length)
            if start >= segment.end:
                continue
            if segment.kind == "prefill":
                self._model.prefill(state, sequence.tokens[start : segment.end])
                continue
            for at in range(start, segment.end, self._model.rows):
                block = sequence.tokens[at : min(at + self._model.rows, segment.end)]
                self._model.decode(state, block)
                self._model.commit(state, len(block))
        return state


def compare(clean: Tensor, logits: Tensor) -> tuple[bool, float]:
    """Whether both [V] are highest at the same id, and KL(clean, other) in nats, infinite if a number is none."""
    if not bool(torch.isfinite(clean).all() & torch.isfinite(logits).all()):
        return False, float("inf")
    p, q = clean.double().log_softmax(0), logits.double().log_softmax(0)
    return bool(clean.argmax() == logits.argmax()), max(float((p.exp() * (p - q)).sum()), 0.0)
