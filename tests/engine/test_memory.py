"""The estimate is what caches allocate, for every codec."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from engine.codecs.spec import CODECS
from engine.memory import Budget, free_memory
from engine.model import Model


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_is_what_is_allocated(codec: str, dtype: torch.dtype, tiny_folder: Path) -> None:
    model = Model.load(tiny_folder, dtype=dtype)
    state = model.new_state(codec)
    rng = random.Random(0)
    model.prefill(state, [rng.randrange(250) for _ in range(512)])
    assert sum(cache.nbytes for cache in state.kv) == model.cache_bytes(codec, 512)


def test_a_limit_is_a_limit_and_what_is_held_counts_only_as_free_memory() -> None:
    cpu = torch.device("cpu")
    assert Budget(cpu, 100).has_room(100, held=50)
    assert not Budget(cpu, 100).has_room(101, held=50)
    assert Budget(cpu).has_room(1000)
    assert not Budget(cpu).has_room(1 << 60)
    assert Budget(cpu).has_room(1 << 60, held=1 << 60)


def test_free_memory_is_a_number_where_it_is_known() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 1 << 20
