"""Models and sequence states for the cache benchmark: a long context, held by every codec at once.

Must not: prefill more than once per context.
Invariant: states of one context hold the same rows, in full or as codes, and the same recurrent memories.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from engine.bench.shape import RandomWeights, shape_config
from engine.codecs.spec import FULL
from engine.config import ModelConfig
from engine.engine import EMBEDDED
from engine.model import Model
from engine.state import SequenceState
from engine.weights import Weights

ROOM = 512
"""Tokens that a context may grow while it is measured."""


def stretched_model(folder: Path | None, longest: int, device: str, dtype: torch.dtype) -> Model:
    """A model folder with a window of at least `longest` tokens: beyond its own, speed and memory mean something,
    text does not."""
    config = ModelConfig.load(folder or EMBEDDED)
    config = replace(config, max_context=max(config.max_context, longest + ROOM))
    return Model(Weights(folder or EMBEDDED, device, config.fp8_block), config, dtype, rows=8, prefill_rows=128)


def random_model(config: ModelConfig, longest: int, device: str, dtype: torch.dtype) -> Model:
    """Random weights of a given size."""
    config = replace(config, max_context=max(config.max_context, longest + ROOM))
    torch.manual_seed(0)
    return Model(RandomWeights(device, config.mtp_layers > 0), config, dtype, rows=8, prefill_rows=128)


def shaped_model(name: str, layers: int | None, longest: int, device: str, dtype: torch.dtype) -> Model:
    """Random weights at a real model's size."""
    return random_model(shape_config(name, layers), longest, device, dtype)


def tokens(count: int, vocabulary: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(vocabulary) for _ in range(count)]


def drawn_states(model: Model, context: int, codecs: Sequence[str]) -> dict[str, SequenceState]:
    """States of `context` tokens whose attention rows are drawn instead of prefilled: a decode step costs the same, and
    a context of 128k tokens is there in seconds."""
    generator = torch.Generator(model.device).manual_seed(0)
    states = {codec: model.new_state(codec) for codec in codecs}
    shape = (model.prefill_rows, model.config.num_kv_heads, model.config.head_dim)
    if FULL in states:
        for cache in states[FULL].kv:
            cache.reserve(context + model.rows)  # growing by doubling would count as size
    for index in range(len(next(iter(states.values())).kv)):
        for start in range(0, context, model.prefill_rows):
            keys, values = (
                torch.randn(shape, generator=generator, device=model.device).to(model.dtype) for _ in range(2)
            )
            for state in states.values():
                state.kv[index].write(start, keys, values)
                state.kv[index].settle(start + model.prefill_rows)
    for state in states.values():
        state.skip_log(context)
    return states


def live_cache_bytes(state: SequenceState) -> int:
    """Bytes of everything that the attention caches keep alive: codes, scales, raw rows, room to grow, scratch."""
    tensors = {t.untyped_storage().data_ptr(): t for cache in state.kv for t in cache.tensors() if t.numel()}
    return sum(t.untyped_storage().nbytes() for t in tensors.values())
