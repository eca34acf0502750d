"""Norm, rotary embedding and SwiGLU against plain formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from engine import layers
from engine.config import ModelConfig
from engine.layers import Linear, Norm, Rope, SwiGlu
from engine.weights import Weights


@pytest.fixture
def config(tiny_folder: Path) -> ModelConfig:
    return ModelConfig.load(tiny_folder)


@pytest.mark.parametrize("zero_centred", [True, False])
def test_norm(zero_centred: bool) -> None:
    x, weight = torch.randn(3, 8), torch.randn(8)
    expected = x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (weight + zero_centred)
    torch.testing.assert_close(Norm(weight, 1e-6, zero_centred=zero_centred)(x), expected)


def test_norm_is_computed_in_fp32_and_keeps_the_type() -> None:
    x = (torch.randn(4, 64) * 300).bfloat16()
    y = Norm(torch.zeros(64), 1e-6)(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, Norm(torch.zeros(64), 1e-6)(x.float()).bfloat16())


def test_rope_turns_pairs_by_the_angle_of_their_position(config: ModelConfig) -> None:
    rope = Rope(replace(config, rotary_dim=4, rope_theta=100.0), torch.device("cpu"))
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(1, 1, 5)
    y = rope.rotate(x.clone(), rope.angles(7, 1))[0, 0]
    for pair, speed in ((0, 1.0), (1, 100.0**-0.5)):
        real, imaginary = float(x[0, 0, pair]), float(x[0, 0, pair + 2])
        turned = complex(real, imaginary) * complex(math.cos(7 * speed), math.sin(7 * speed))
        assert float(y[pair]) == pytest.approx(turned.real, abs=1e-5)
        assert float(y[pair + 2]) == pytest.approx(turned.imag, abs=1e-5)
    assert float(y[4]) == 5.0


def test_rope_of_a_position_does_not_depend_on_where_a_block_starts(config: ModelConfig) -> None:
    rope = Rope(config, torch.device("cpu"))
    long, short = rope.angles(0, 300), rope.angles(290, 4)
    assert all(torch.equal(a[290:294], b) for a, b in zip(long, short, strict=True))


def test_swiglu(tiny_folder: Path, config: ModelConfig) -> None:
    tensors = load_file(tiny_folder / "model.safetensors")
    prefix = "layers.1.mlp."
    gate, up, down = (tensors[f"model.{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    x = torch.randn(5, config.hidden_size)
    mlp = SwiGlu(Weights(tiny_folder), prefix, config.hidden_size, config.intermediate_size, torch.float32)
    torch.testing.assert_close(mlp(x), (F.silu(x @ gate.T) * (x @ up.T)) @ down.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_rows_have_the_same_bits_among_others(tiny_folder: Path, config: ModelConfig, dtype: torch.dtype) -> None:
    """What batching several sequences rests on, for a product in any multiple of eight rows."""
    mlp = SwiGlu(Weights(tiny_folder), "layers.1.mlp.", config.hidden_size, config.intermediate_size, dtype)
    x = torch.randn(128, config.hidden_size).to(dtype)
    alone = mlp(x[:8].clone())
    assert all(torch.equal(mlp(x[:rows].clone())[:8], alone) for rows in (16, 24, 32, 128))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1032, 256), (96, 100)])
def test_linear_is_the_product_and_every_row_is_alone(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(shape).to(dtype), torch.randn(8, shape[1]).to(dtype)
    linear = Linear(weight.clone())
    exact = x.double() @ weight.double().T
    assert (linear(x).double() - exact).abs().max() < (1e-4 if dtype == torch.float32 else 0.3)
    order = torch.randperm(8)
    assert torch.equal(linear(x[order]), linear(x)[order])
    alone = torch.zeros_like(x)
    alone[5] = x[5]
    assert torch.equal(linear(alone)[5], linear(x)[5])
    every_second = torch.stack((x, x), dim=1).flatten(0, 1)[::2]  # not contiguous
    assert torch.equal(linear(every_second), linear(x))


def test_linear_without_the_packed_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Tensor, weight: Tensor) -> Tensor:
        raise RuntimeError("not on this machine")

    weight, x = torch.randn(96, 64), torch.randn(8, 64)
    monkeypatch.setattr(layers, "_packed_product", refuse)
    assert torch.equal(Linear(weight)(x), F.linear(x, weight))
