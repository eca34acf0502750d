"""Where the faults of speculation strike in one turn: what is drafted, what is accepted, what a commit leaves.

Must not: know how a fault is found. VERIFY_IGNORES_CACHE, FAR_CONTEXT and REJECTED_DRAFTS_KEPT are not here, they
strike inside the model.
Invariant: with no fault, or another one, every method leaves everything as it is; plain decoding is always sound.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.deltanet import Ingredients, LinearState
from engine.faults import Fault
from engine.state import SequenceState


class PlantedSteps:
    """One per turn. Around each commit: `before_commit`, the commit, `after_commit`."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._spoil: Callable[[SequenceState], None] | None = None

    def before_commit(self, state: SequenceState, count: int) -> None:
        """The first `count` of the provisional rows are about to be committed."""
        parts, rows = state.provisional, state.provisional_rows
        self._spoil = None
        if parts is None or rows < 2:
            return
        if self._fault is Fault.RECURRENT_NOT_ROLLED_BACK and count < rows:
            rejected = [part.rows(count, rows) for part in parts]
            self._spoil = lambda after: _fold(after, after.linear, rejected)
        if self._fault is Fault.STALE_RECURRENT_SLOT and count > 1:
            before = [linear.clone() for linear in state.linear]
            first = [part.rows(0, 1) for part in parts]
            self._spoil = lambda after: _put_back(after, before, first)

    @torch.inference_mode()
    def after_commit(self, state: SequenceState) -> None:
        """RECURRENT_NOT_ROLLED_BACK, STALE_RECURRENT_SLOT."""
        if self._spoil is not None:
            self._spoil(state)
            self._spoil = None


def _fold(state: SequenceState, linear: list[LinearState], parts: list[Ingredients]) -> None:
    for layer, each, part in zip(state.layers, linear, parts, strict=True):
        layer.fold(each, part)


def _put_back(state: SequenceState, before: list[LinearState], first: list[Ingredients]) -> None:
    """The memories as they were behind the first row; the convolution has slots of its own."""
    _fold(state, before, first)
    for each, old in zip(state.linear, before, strict=True):
        each.memory = old.memory
