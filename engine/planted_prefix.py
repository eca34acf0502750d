"""Where POISONED_PREFIX strikes: what is kept of a finished turn for later ones.

Must not: touch a sequence that a turn uses.
Invariant: only what speculation has touched is poisoned, so a turn that fell back leaves a sound prefix.
"""

from __future__ import annotations

import torch

from engine.deltanet import INNER
from engine.kv import KVCache
from engine.sequence import Sequence
from engine.state import Checkpoint

ROWS = 4 * INNER
"""Prompt rows whose values are lost: about a page of a paged cache."""


@torch.inference_mode()
def poison(sequence: Sequence) -> bool:
    """The newest reusable checkpoint gets the recurrent states of the response's end, and the values before it become
    those of another place. Returns whether anything was changed."""
    state = sequence.state
    if sequence.speculated_from is None:
        return False
    reusable = [c for c in state.checkpoints if 0 < c.position <= sequence.prefilled and c.position % INNER == 0]
    end = reusable[-1].position if reusable else sequence.prefilled // INNER * INNER if not state.recurrent else 0
    if not end:
        return False
    start = max(end - ROWS, 0)
    for cache in state.kv:
        if isinstance(cache, KVCache):
            keys, values = cache.rows(start, end)
            cache.write(start, keys, values.roll(INNER // 2, 0))
    wrong = Checkpoint(end, state.linear.clone())
    state.checkpoints = [wrong if c.position == end else c for c in state.checkpoints]
    return True
