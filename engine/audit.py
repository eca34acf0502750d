"""Exactness audit: recompute a verify step one row at a time and compare bit for bit.

Must not: change the outcome of the step; it observes, and whoever owns the policy decides.
Invariant: after `audit_step` the state is exactly as it was before: the verify step's provisional rows stand.
A mismatch proves a speculation fault on this device: with fixed-width rows both ways must give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import torch

from engine.model import Model, Rows
from engine.reports import AuditReport
from engine.state import SequenceState


def audit_step(model: Model, state: SequenceState, tokens: Tokens[int], rows: Rows) -> AuditReport:
    """Checks a provisional verify step before it is committed.

    tokens: the pending token and the accepted drafts, the rows that are about to be committed; rows: what the verify
    step computed for them. Works on a clone of the state, so a fault in the verify path cannot reach the reference.
    """
    reference = state.clone()
    mismatch: int | None = None
    worst = 0.0
    for index, token in enumerate(tokens):
        row = model.decode(reference, [token])
        model.commit(reference, 1)
        ours, theirs = rows.logits[index], row.logits[0]
        if torch.equal(ours, theirs) and torch.equal(rows.hidden[index], row.hidden[0]):
            continue
        if mismatch is None:
            mismatch = index
        difference = (ours - theirs).abs()
        worst = max(worst, float(difference.nan_to_num(nan=float("inf")).max()))
    return AuditReport(rows=len(tokens), mismatch=mismatch, max_abs_diff=worst)
