"""The distribution that a token is drawn from, in numbers: how likely the token was, how sure the draw.

Must not: choose tokens, or wait for the device.
Invariant: nothing here reaches a choice, so sums may differ in the last bit with the number of rows beside one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.upload import on_host


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
    weighted = weight * scores
    total = weight.sum(1).clamp_min(1e-300)
    mean = weighted.sum(1) / total
    log_total = total.log()
    chosen = (weight * (draw.ids == taken.unsqueeze(1))).sum(1)
    expected = torch.full_like(total, -1.0)
    if drafts:
        guess = on_host(drafts, taken.device).to(taken.device, non_blocking=True).unsqueeze(1)
        rows = slice(0, len(drafts))
        expected[rows] = (weight[rows] * (draw.ids[rows] == guess)).sum(1) / total[rows]
    return torch.stack(
        [
            chosen.clamp_min(1e-300).log() - log_total,
            (log_total - mean).clamp_min(0.0),
            ((weighted * scores).sum(1) / total - mean * mean).clamp_min(0.0),
            expected,
        ]
    )
