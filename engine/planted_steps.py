"""Where the faults of speculation strike in one turn: what is drafted, what is accepted, what a commit leaves.

Must not: know how a fault is found. VERIFY_IGNORES_CACHE, FAR_CONTEXT and REJECTED_DRAFTS_KEPT are not here, they
strike inside the model.
Invariant: with no fault, or another one, every method leaves everything as it is; plain decoding is always sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from engine.deltanet import Ingredients, LinearState
from engine.faults import Fault
from engine.state import SequenceState

RUNNERS_UP = 8


class PlantedSteps:
    """One per turn. Around each commit: `before_commit`, the commit, `after_commit`."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._struck = False
        self._spoil: Callable[[SequenceState], None] | None = None

    def drafted(self, drafts: list[int], never: Collection[int]) -> list[int]:
        """What is verified in place of what was drafted. never: ids that no response holds. DEAD_DRAFTER."""
        if self._fault is not Fault.DEAD_DRAFTER:
            return drafts
        return [min(never)] * len(drafts)

    def chosen(
        self, ids: list[int], run: int, logits: Tensor, text: Callable[[Sequence[int]], str], special: Collection[int]
    ) -> list[int]:
        """What is taken in place of what the rows have chosen. FLIPPED_ARGUMENT.

        run: rows that would be committed; text: of the response with more tokens behind it; special: ids that are no
        text.
        """
        if self._fault is not Fault.FLIPPED_ARGUMENT or self._struck or len(ids) < 2:
            return ids
        for row in range(run):
            before = text(ids[:row])
            if not in_argument(before) or ids[row] in special or "<" in text(ids[: row + 1])[len(before) :]:
                continue
            for other in logits[row].topk(min(RUNNERS_UP, logits.shape[-1])).indices.tolist():
                if other in (ids[row], *special) or "<" in text([*ids[:row], other])[len(before) :]:
                    continue
                self._struck = True
                return [*ids[:row], other, *ids[row + 1 :]]
        return ids

    def before_commit(self, state: SequenceState, count: int) -> None:
        """The first `count` of the provisional rows are about to be committed."""
        self._spoil = None
        if self._fault not in (Fault.RECURRENT_NOT_ROLLED_BACK, Fault.STALE_RECURRENT_SLOT):
            return
        parts, rows = state.provisional, state.provisional_rows
        if parts is None or rows < 2:
            return
        if self._fault is Fault.RECURRENT_NOT_ROLLED_BACK and count < rows:
            rejected = parts.rows(count, rows)
            self._spoil = lambda after: after.linear.fold(rejected)
        if self._fault is Fault.STALE_RECURRENT_SLOT and count > 1:
            before, first = state.linear.clone(), parts.rows(0, 1)
            self._spoil = lambda after: _put_back(after, before, first)

    @torch.inference_mode()
    def after_commit(self, state: SequenceState) -> None:
        """RECURRENT_NOT_ROLLED_BACK, STALE_RECURRENT_SLOT."""
        if self._spoil is not None:
            self._spoil(state)
            self._spoil = None


def in_argument(text: str) -> bool:
    """Whether a response in Qwen's XML form ends inside the value of a parameter."""
    opened = text.rfind("<parameter=")
    return opened >= 0 and ">\n" in text[opened:] and "</parameter>" not in text[opened:]


def _put_back(state: SequenceState, before: LinearState, first: Ingredients) -> None:
    """The memories as they were behind the first row; the convolution has slots of its own."""
    before.fold(first)
    state.linear.memory = before.memory
