"""Where the faults of one turn strike: its rows, its caches, its judgement of drafts.

Must not: know how a fault is found. VERIFY_IGNORES_CACHE is not here, it strikes inside the model; what strikes where
codes are written and read is in engine.planted_codecs.
Invariant: with no fault, or another one, every method leaves everything as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor

from engine.faults import Fault
from engine.kv import TILE, KVCache
from engine.model import Rows
from engine.planted_codecs import damage
from engine.sampler import SamplingParams, pick
from engine.state import SequenceState

NAN_POSITION = 8
"""Index of the generated token whose logits are lost."""
KEY_FACTOR = 1.05


class Planted:
    """One per turn; what strikes once does so once in its life, so that a rewind can heal it."""

    def __init__(self, fault: Fault | None) -> None:
        self._fault = fault
        self._struck = False

    def after_prefill(self, caches: Sequence[object], prompt: int) -> None:
        """prompt: positions that were prefilled. TILE_LOST, CODES_DAMAGED."""
        if self._fault is Fault.CODES_DAMAGED and not self._struck:
            self._struck = damage(caches)
        if self._strikes(Fault.TILE_LOST) and prompt:
            start = (prompt - 1) // TILE * TILE
            for cache in filter(_is_full, caches):
                _rewrite(cache, start, prompt, 1.0, 0.0)

    def in_rows(self, rows: Rows, position: int) -> Rows:
        """position: index of the generated token that the first row predicts. NAN_AT_POSITION."""
        at = NAN_POSITION - position
        if self._fault is not Fault.NAN_AT_POSITION or self._struck or not 0 <= at < len(rows.logits):
            return rows
        logits = rows.logits.clone()
        logits[at] = torch.nan
        return replace(rows, logits=logits)

    def after_commit(self, caches: Sequence[object], length: int, count: int, position: int) -> None:
        """The last `count` of `length` positions were decoded and committed; position: index of the first generated
        token that came of it."""
        self.after_write(caches, length, count)
        if self._fault is Fault.NAN_AT_POSITION and position + count > NAN_POSITION:
            self._struck = True  # in a rejected row it would have gone unseen

    def after_write(self, caches: Sequence[object], length: int, count: int) -> None:
        """The last `count` of `length` positions were decoded and committed, here or for reference. KEYS_SCALED."""
        if self._fault is Fault.KEYS_SCALED:
            for cache in filter(_is_full, caches):
                _rewrite(cache, length - count, length, KEY_FACTOR, 1.0)

    def in_reference(self, state: SequenceState, count: int) -> None:
        """The last `count` positions of a state were decoded and committed for reference."""
        self.after_write(state.kv, state.length, count)

    def judged(
        self, logits: Tensor, drafts: Sequence[int], sampling: SamplingParams, valid_tokens: int
    ) -> list[int] | None:
        """The ids that stand instead of the sampler's; None = the sampler's. logits: adjusted. ARGMAX_ACCEPTANCE."""
        if self._fault is not Fault.ARGMAX_ACCEPTANCE or not drafts or sampling.greedy:
            return None
        return [int(token) for token in pick(logits, range(len(logits)), SamplingParams(), valid_tokens)]

    def _strikes(self, fault: Fault) -> bool:
        if self._fault is not fault or self._struck:
            return False
        self._struck = True
        return True


def _is_full(cache: object) -> TypeGuard[KVCache]:
    """Compressed caches have faults of their own, planted by the tests of the codecs."""
    return isinstance(cache, KVCache)


@torch.inference_mode()
def _rewrite(cache: KVCache, start: int, end: int, key_factor: float, value_factor: float) -> None:
    keys, values = cache.rows(start, end)
    cache.write(start, keys * key_factor, values * value_factor)
