"""The number format: named, or measured at the model's sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine import dtype
from engine.config import ModelConfig
from engine.dtype import choose_dtype, parse_dtype
from engine.engine import Engine, EngineOptions
from engine.errors import ConfigError


@pytest.fixture(scope="module")
def config(tiny_folder: Path) -> ModelConfig:
    return ModelConfig.load(tiny_folder)


@pytest.mark.parametrize(
    ("single", "half", "chosen"),
    [(3.0, 1.0, torch.bfloat16), (1.5, 1.0, torch.bfloat16), (1.4, 1.0, torch.float32), (1.0, 9.0, torch.float32)],
)
def test_bfloat16_has_to_be_clearly_faster(
    single: float, half: float, chosen: torch.dtype, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {torch.float32: single, torch.bfloat16: half}
    asked: list[tuple[int, int, int, int]] = []

    def measured(count: int, rows: int, hidden: int, wide: int, dtype: torch.dtype) -> float:
        asked.append((count, rows, hidden, wide))
        return times[dtype]

    monkeypatch.setattr(dtype, "_milliseconds", measured)
    assert choose_dtype("cpu", config, 8) == chosen
    assert asked == [(config.num_layers, 8, config.hidden_size, 2 * config.intermediate_size)] * 2


def test_a_device_that_is_no_cpu_computes_in_bfloat16(config: ModelConfig) -> None:
    assert choose_dtype("cuda:1", config, 8) == torch.bfloat16


def test_what_was_chosen_holds_for_the_process(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is a close call every measurement may say otherwise, and the text with it."""
    choices = iter([torch.bfloat16, torch.float32, torch.bfloat16])
    monkeypatch.setattr(dtype, "_chosen", {})
    monkeypatch.setattr(dtype, "choose_dtype", lambda *sizes: next(choices))
    assert [parse_dtype("auto", "cpu", config, 8) for _ in range(3)] == [torch.bfloat16] * 3
    assert parse_dtype("auto", "cpu", config, 4) == torch.float32, "other sizes are another question"
    assert parse_dtype("float32", "cpu", config, 8) == torch.float32


def test_names(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_dtype("float32", "cpu", config, 8) == torch.float32
    assert parse_dtype("bfloat16", "cpu", config, 8) == torch.bfloat16
    assert parse_dtype("auto", "cpu", config, 8) in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="dtype: 'int4' is not supported; use one of auto, float32, bfloat16"):
        parse_dtype("int4", "cpu", config, 8)


@pytest.mark.parametrize("name", ["auto", "float32", "bfloat16"])
def test_an_engine_is_exact_in_any_format(name: str, tiny_folder: Path) -> None:
    engine = Engine(tiny_folder, EngineOptions(dtype=name))
    assert engine.self_test().exactness == "bitwise"
    assert name == "auto" or str(engine.model.dtype) == f"torch.{name}"
