"""What a step and a draft cost on this very device: measured once at start-up, for the pacer and for whoever asks.

Must not: be asked during a turn; a decision that depends on a clock could not be repeated.
Invariant: medians of the calls that a turn makes, on a state of its own that is thrown away.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from engine.kv import TILE
from engine.model import Model
from engine.pacing import Costs
from engine.sampler import SamplingParams, choose, pick

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

    one = _median(step(1), model.device)
    row = 0.0
    if model.rows > 1 and room > 0:
        row = max(_median(step(model.rows), model.device) - one, 0.0) / (model.rows - 1)
    head, cache = model.mtp, state.mtp
    if head is None or cache is None:
        return Costs(one, row)
    fill = min(TYPICAL_FILL, len(hidden))
    at = len(hidden) - fill

    def draft(rows: int) -> Callable[[], object]:
        def call() -> None:
            _, logits = head.fill(cache, at, [0] * rows, hidden[at : at + rows])
            pick(logits, [at], sampling, valid_tokens).tolist()

        return call

    return Costs(one, row, _median(draft(fill), model.device), _median(draft(1), model.device))


def _median(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, the device's queued work included."""
    times = []
    for turn in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn >= WARM_UP:
            times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)
