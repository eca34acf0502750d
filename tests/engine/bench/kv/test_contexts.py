"""States of one long context: equal in what they hold, different only in how."""

from __future__ import annotations

import pytest
import torch

from engine.bench.kv.contexts import drawn_states, live_cache_bytes, random_model, stretched_model, tokens
from engine.bench.shape import shape_config
from engine.compressed import CompressedCache
from engine.kv import KVCache
from tests.engine.bench.test_shape import SMALL


@pytest.fixture(scope="module")
def model() -> object:
    return random_model(shape_config("qwen3.6-27b", 4, **SMALL), 600, "cpu", torch.float32)


def test_states_hold_the_same_rows(model: object) -> None:
    states = drawn_states(model, 384, ["full", "k8v8", "k4v4"])  # type: ignore[arg-type]
    full = states["full"].kv[0]
    assert isinstance(full, KVCache)
    for codec in ("k8v8", "k4v4"):
        cache = states[codec].kv[0]
        assert isinstance(cache, CompressedCache)
        assert (states[codec].length, cache.coded) == (384, 384)
        fresh = CompressedCache(cache.layout)
        fresh.take_over(full, 384)
        assert torch.equal(cache.key_codes, fresh.key_codes[: cache.key_codes.shape[0]])
        assert torch.equal(cache.value_scale, fresh.value_scale[: cache.value_scale.shape[0]])


def test_bytes_count_shared_scratch_once(model: object) -> None:
    state = drawn_states(model, 256, ["k4v4"])["k4v4"]  # type: ignore[arg-type]
    before = live_cache_bytes(state)
    model.decode(state, [1])  # type: ignore[attr-defined]
    scratch = sum(t.untyped_storage().nbytes() for t in state.kv[0].tensors()[-2:])
    assert scratch > 0
    assert live_cache_bytes(state) >= sum(cache.nbytes for cache in state.kv) + scratch >= before


def test_a_window_is_stretched_never_shortened() -> None:
    assert stretched_model(None, 100, "cpu", torch.float32).config.max_context == 4096
    assert stretched_model(None, 5000, "cpu", torch.float32).config.max_context == 5512


def test_tokens_repeat() -> None:
    assert tokens(5, 100) == tokens(5, 100) != tokens(5, 100, seed=1)
