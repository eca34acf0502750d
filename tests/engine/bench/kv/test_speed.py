"""Ratios, sizes and bars of the cache benchmark; no test says how fast anything is."""

from __future__ import annotations

import pytest
import torch

from engine.bench.kv.contexts import random_model, stretched_model
from engine.bench.kv.speed import Speed, measure_speed, size_bar, speed_bars, speed_table
from engine.bench.shape import shape_config
from tests.engine.bench.test_shape import SMALL


def test_every_codec_is_measured_against_full() -> None:
    model = random_model(shape_config("qwen3.6-27b", 4, **SMALL), 600, "cpu", torch.float32)
    found = measure_speed(model, 512, rounds=2)
    assert [s.codec for s in found] == ["full", "k8v8", "k8v4", "k4v4", "k4v2", "k3v3"]
    assert found[0].ratio == 1.0
    assert all(s.step_ms > 0 and s.read_per_s > 0 for s in found)
    sizes = [s.bytes for s in found]
    assert sizes[:4] == sorted(sizes[:4], reverse=True)
    table = speed_table(found, 1e10)
    assert table.rows[0][5] == pytest.approx(0.5 * 512 / 768), "full in fp32, and a tile to grow into"


def test_bars_speak_of_the_longest_context() -> None:
    found = [Speed("full", n, 1.0, 1.0, 100, 50, 1.0) for n in (10, 20)]
    found += [Speed("k8v8", 10, 1.0, 9.0, 50, 50, 1.0), Speed("k8v8", 20, 1.0, 1.1, 50, 50, 1.0)]
    found += [Speed("k4v4", 10, 1.0, 1.0, 50, 50, 1.0), Speed("k4v4", 20, 1.0, 1.6, 50, 50, 1.0)]
    assert [(bar.name, bar.holds) for bar in speed_bars(found)] == [
        ("decode step at 20 tokens: k8v8 / full", True),
        ("decode step at 20 tokens: k4v4 / full", False),
    ]


def test_the_size_bar_holds_for_the_embedded_model() -> None:
    """The bar of the project: 3.5 times smaller at 16k tokens, everything counted."""
    bar = size_bar(stretched_model(None, 16_384, "cpu", torch.bfloat16), 16_384)
    assert bar.holds
    assert 3.5 <= bar.measured < 3.77


def test_the_size_bar_is_for_one_kind_of_model() -> None:
    with pytest.raises(ValueError, match="bf16 and head_dim 64"):
        size_bar(stretched_model(None, 512, "cpu", torch.float32), 512)
