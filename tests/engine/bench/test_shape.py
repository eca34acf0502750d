"""Real shapes with random weights: sizes by the book, memory checked first, and a small one that runs."""

from __future__ import annotations

import pytest
import torch

from engine.bench import shape as shaping
from engine.bench.arguments import Options
from engine.bench.shape import RandomWeights, measure_shape, shape_config, step_bytes, weigh
from engine.errors import ConfigError
from engine.model import Model

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "max_position_embeddings": 1024,
}


def test_the_27b_has_the_size_that_its_files_have() -> None:
    """55.56 GB by the published index, of which the vision part is about 0.9."""
    sizes = weigh(shape_config("qwen3.6-27b"), torch.bfloat16)
    assert sum(sizes.values()) == pytest.approx(54.6e9, rel=0.005)
    mtp = sum(size for name, size in sizes.items() if name.startswith("mtp."))
    assert mtp == pytest.approx(849e6, rel=0.002)
    target, drafted = step_bytes(sizes, tied=False)
    assert target == pytest.approx(51.2e9, rel=0.005)
    assert drafted == mtp + 248_320 * 5120 * 2


def test_depth() -> None:
    assert shape_config("qwen3.6-27b", 5).layer_types[3:] == ("full_attention", "linear_attention")
    with pytest.raises(ConfigError, match=r"--layers: qwen3\.6-27b has 64"):
        shape_config("qwen3.6-27b", 65)


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "free_memory", lambda device: 20_000_000_000)
    monkeypatch.setattr(shaping, "copy_bandwidth", lambda device: pytest.fail("it went on"))
    with pytest.raises(
        ConfigError, match=r"57\.\d GB are needed for 64 layers, 20\.0 GB are free; 37\.\d GB are missing"
    ):
        measure_shape(Options(shape="qwen3.6-27b"), {}, lambda line: None)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="device: "):
        measure_shape(Options(shape="qwen3.6-27b", device="cuda:99"), {}, lambda line: None)


def test_a_small_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "copy_bandwidth", lambda device: 1e9)
    config = shape_config("qwen3.6-27b", 4, **SMALL)
    options = Options(shape="qwen3.6-27b", quick=True)
    report = measure_shape(options, {}, lambda line: None, config)
    rows = [dict(zip(report.tables[0].columns, row, strict=True)) for row in report.tables[0].rows]
    assert [row["mode"] for row in rows] == ["plain, not captured", "plain", "mtp 1", "mtp 2", "mtp 3"]
    assert "steps are captured" in report.tables[0].note
    target, drafted = step_bytes(weigh(config, torch.bfloat16), tied=False)
    for chain, row in enumerate(rows, -1):
        assert row["GB read"] == pytest.approx((target + max(chain, 0) * drafted) / 1e9)
        assert row["GB/s"] == pytest.approx(row["GB read"] / row["step ms"] * 1e3)
        assert row["of copy"] == pytest.approx(row["GB/s"])
        assert row["draft ms"] < row["step ms"]
    assert report.settings["layers"] == 4 and report.missed == []


def test_every_tensor_is_random_and_none_twice() -> None:
    torch.manual_seed(0)
    weights = RandomWeights("cpu", mtp=True)
    model = Model(weights, shape_config("qwen3.6-27b", 4, **SMALL), torch.float32, rows=8, prefill_rows=128)
    assert model.mtp is not None and "mtp.fc.weight" in weights.sizes
    logits = model.prefill(model.new_state(), [1, 2, 3])
    assert torch.isfinite(logits).all() and logits.std() > 0.1


def test_copy_bandwidth_is_positive() -> None:
    assert shaping.copy_bandwidth(torch.device("cpu"), size=1 << 20, tries=1) > 0
