"""Equality of tensors as a comparison of two computations needs it: what is no number in both is no difference.

Must not: round, or allow for any tolerance.
Invariant: a number and what is none differ, whichever side it is on.
"""

from __future__ import annotations

import torch
from torch import Tensor


def equal(ours: Tensor, theirs: Tensor) -> bool:
    """Whether both hold the same numbers in the same places, and NaN in the same places too. Waits for the device."""
    if ours.shape != theirs.shape:
        return False
    if torch.equal(ours, theirs):
        return True
    return bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())
