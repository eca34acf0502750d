"""What codecs do to predictions: divergence from `full` at several contexts.

Must not: let a codec off because its text still reads well; perplexity is no measure here (it can fall with damage).
Invariant: every codec reads the same tokens; what differs is the cache alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.bench.kv.contexts import tokens
from engine.bench.report import Table
from engine.codecs.spec import FULL, SPECS
from engine.model import Model

COMPARED = 256
"""Last positions of a context whose predictions are compared."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """kl: mean nats; worst: largest; top1: share of positions with the same most likely token."""

    model: str
    codec: str
    context: int
    kl: float
    worst: float
    top1: float


def measure_divergence(model: Model, name: str, ids: Sequence[int]) -> list[Divergence]:
    """Reads `ids` with every codec, as a prompt is read."""
    exact = _predictions(model, FULL, ids)
    found = []
    for codec in SPECS:
        other = _predictions(model, codec, ids)
        kl = (exact.exp() * (exact - other)).sum(-1)
        top1 = (exact.argmax(-1) == other.argmax(-1)).float().mean()
        found.append(Divergence(name, codec, len(ids), float(kl.mean()), float(kl.max()), float(top1)))
    return found


def random_text(model: Model, context: int) -> list[int]:
    return tokens(context, model.config.vocab_size, seed=2)


def divergence_table(found: Sequence[Divergence]) -> Table:
    rows = tuple((d.model, d.context, d.codec, d.kl, d.worst, d.top1) for d in found)
    note = f"the last {COMPARED} positions of each context; full = 0, 0, 1"
    return Table("Divergence from full", ("model", "context", "codec", "mean KL", "worst KL", "same top-1"), rows, note)


def _predictions(model: Model, codec: str, ids: Sequence[int]) -> torch.Tensor:
    """fp64 log-probabilities [COMPARED, V] of the last positions."""
    state = model.new_state(codec)
    hidden = model.prefill(state, ids)[-COMPARED:]
    return model.head(hidden).double().log_softmax(-1)
