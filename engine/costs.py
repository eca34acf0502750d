"""What a step and a draft cost on this very device: measured once at start-up, for the pacer and for whoever asks.

Must not: be asked during a turn; a decision that depends on a clock could not be repeated.
Invariant: medians of the calls that a turn makes, on a state of its own that is thrown away.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.kv import TILE, KVCache
from engine.model import Model
from engine.mtp import MtpHead
from engine.pacing import Costs
from engine.sampler import SamplingParams, choose, guess

REPEATS = 7
WARM_UP = 2
TYPICAL_FILL = 4
"""Rows that the head's cache lacks when it is asked again: what the last step has committed."""


def measure_costs(model: Model, valid_tokens: int) -> Costs:
    """A fraction of a second on a model whose step takes milliseconds; some 30 steps in all.

    The context is short. A long one makes steps dearer and drafts relatively cheaper (the head has one attention
    layer), so what is measured here errs towards fewer drafts. valid_tokens: ids from it on are padding.
    """
    sampling = SamplingParams()
    state = model.new_state()
    room = model.config.max_context - 2 * (REPEATS + WARM_UP) * model.rows
    hidden = model.prefill(state, [0] * max(min(TILE // 2, room), 1))

    def step(rows: int) -> Callable[[], object]:
        def call() -> None:
            logits = model.decode(state, [0] * rows).logits
            choose(logits, range(rows), sampling, valid_tokens)
            model.commit(state, rows)

        return call

    calls = [step(1)]
    wide = model.rows > 1 and room > 0
    if wide:
        calls.append(step(model.rows))
    head, cache = model.mtp, state.mtp
    if head is not None and cache is not None:
        fill = min(TYPICAL_FILL, len(hidden))
        calls += [_draft(head, cache, hidden[-rows:], sampling, valid_tokens) for rows in (fill, 1)]
    one, *rest = _medians(calls, model.device)
    row = max(rest.pop(0) - one, 0.0) / (model.rows - 1) if wide else 0.0
    return Costs(one, row, *rest)


def _draft(
    head: MtpHead, cache: KVCache, hidden: Tensor, sampling: SamplingParams, valid_tokens: int
) -> Callable[[], object]:
    rows = len(hidden)

    def call() -> None:
        _, logits = head.fill(cache, 0, [0] * rows, hidden)
        guess(logits, [rows], sampling, valid_tokens).tolist()

    return call


def _medians(calls: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Milliseconds of each call, the device's queued work included. In turns, so that another load meets all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(WARM_UP + REPEATS):
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= WARM_UP:
                taken.append((time.perf_counter() - started) * 1e3)
    return [statistics.median(taken) for taken in times]
