"""The distribution that a token is drawn from, in numbers: how likely the token was, how sure the draw.

Must not: choose tokens, or wait for the device.
Invariant: sums are taken in a fixed order, so a row gives the same numbers alone and beside drafts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """Candidates of a draw. ids: int64 [n, C]; scores: float64 [n, C], log-probabilities up to a constant, the best
    one 0; keep: bool [n, C], what the filters leave."""

    ids: Tensor
    scores: Tensor
    keep: Tensor


def draw_numbers(draw: Draw, taken: Tensor, drafts: Sequence[int]) -> Tensor:
    """float64 [4, n]: log-probability of the taken id, entropy, variance of the log-probability (all nats), and the
    probability of the row's draft (-1: the row has none).

    taken: int64 [n]; drafts: of the first rows. A taken id that the filters left out has about -690.
    """
    weight = torch.where(draw.keep, draw.scores, -math.inf).exp()
    scores = torch.where(draw.keep, draw.scores, 0.0)
    sums = row_sums(torch.stack([weight, weight * scores, weight * scores * scores]))
    total = sums[0].clamp_min(1e-300)
    mean = sums[1] / total
    log_total = total.log()
    guess = torch.full_like(taken, -1)
    if drafts:
        guess[: len(drafts)] = torch.tensor(list(drafts), device=taken.device)
    # one term each: no order to be fixed
    chosen = (weight * (draw.ids == taken.unsqueeze(1))).sum(1)
    expected = (weight * (draw.ids == guess.unsqueeze(1))).sum(1) / total
    return torch.stack(
        [
            chosen.clamp_min(1e-300).log() - log_total,
            (log_total - mean).clamp_min(0.0),
            (sums[2] / total - mean * mean).clamp_min(0.0),
            torch.where(guess < 0, -1.0, expected),
        ]
    )


def row_sums(values: Tensor) -> Tensor:
    """Sums the last dimension by folding halves onto each other: the same order for any batch, on any
    device."""
    width = values.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        folded = values[..., :half].clone()
        folded[..., : width - half] += values[..., half:width]
        values, width = folded, half
    return values[..., 0]
