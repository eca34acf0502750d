"""Gated DeltaNet: chunks equal the recurrence, and folding accepted rows equals decoding them, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import ModelConfig
from engine.deltanet import INNER, DeltaNet, Ingredients, LinearState, chunk
from engine.weights import Weights


@pytest.fixture(scope="module")
def layer(tiny_folder: Path) -> DeltaNet:
    config = ModelConfig.load(tiny_folder)
    return DeltaNet(Weights(tiny_folder), "layers.0.linear_attn.", config, torch.float32)


def inputs(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed))


def equal(a: LinearState, b: LinearState) -> bool:
    return torch.equal(a.memory, b.memory) and torch.equal(a.conv, b.conv)


def test_a_chunk_equals_the_recurrence() -> None:
    """S_t = e^g S_(t-1) + k (beta (v - e^g k S_(t-1))), out = q S_t; in fp64 as the reference."""
    torch.manual_seed(0)
    heads, n, dk, dv = 3, INNER, 8, 6
    q, k = torch.randn(heads, n, dk), torch.nn.functional.normalize(torch.randn(heads, n, dk), dim=-1)
    v, beta, g = torch.randn(heads, n, dv), torch.rand(heads, n), -torch.rand(heads, n)
    memory = torch.randn(heads, dk, dv)
    out, after = chunk(q, k, v, beta, g, memory)
    state, rows = memory.double(), []
    for t in range(n):
        state = state * g[:, t].double().exp()[:, None, None]
        recalled = (k[:, t, :, None].double() * state).sum(1)
        state = state + k[:, t, :, None] * (beta[:, t, None] * (v[:, t] - recalled))[:, None]
        rows.append((q[:, t, :, None].double() * state).sum(1))
    torch.testing.assert_close(out.double(), torch.stack(rows, 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.double(), state, atol=1e-4, rtol=1e-4)


def test_prefill_equals_decoding(layer: DeltaNet) -> None:
    x = inputs(100)
    filled, stepped = layer.new_state(x.device), layer.new_state(x.device)
    padded = torch.zeros(128, 64)
    padded[:100] = x
    out, filled, _ = layer.prefill(padded, filled, 0, slice(0, 100))
    rows = []
    for i in range(100):
        row, parts = layer.decode(x[i : i + 1], [stepped], 1)
        stepped.fold(parts)
        rows.append(row)
    torch.testing.assert_close(out[:100], torch.cat(rows), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(filled.memory, stepped.memory, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(filled.conv, stepped.conv)


def test_decode_leaves_the_state_alone(layer: DeltaNet) -> None:
    _, state, _ = layer.prefill(inputs(64), layer.new_state(torch.device("cpu")), 0, slice(0, 64))
    before = state.clone()
    layer.decode(inputs(8, 1), [state], 8)
    assert equal(state, before)


@pytest.mark.parametrize("accepted", range(1, 9))
def test_folding_accepted_rows_is_decoding_them_one_by_one(layer: DeltaNet, accepted: int) -> None:
    block = torch.cat((inputs(accepted, 2), inputs(8 - accepted, 3)))
    _, fast, _ = layer.prefill(inputs(64), layer.new_state(block.device), 0, slice(0, 64))
    plain = fast.clone()
    out, parts = layer.decode(block, [fast], 8)
    fast.fold(parts.rows(0, accepted))
    for i in range(accepted):
        single = torch.zeros(8, 64)
        single[0] = block[i]
        row, one = layer.decode(single, [plain], 1)
        plain.fold(one)
        assert torch.equal(row[0], out[i])
    assert equal(fast, plain)


def test_padding_in_a_prefill_changes_nothing(layer: DeltaNet) -> None:
    """The same rows at an offset inside a chunk, with garbage around them."""
    x = inputs(20)
    states, outs = [], []
    for noise in (0.0, 50.0):
        padded = torch.full((64, 64), noise)
        padded[30:50] = x
        out, state, _ = layer.prefill(padded, layer.new_state(x.device), 0, slice(30, 50))
        outs.append(out[30:50])
        states.append(state)
    assert torch.equal(outs[0], outs[1])
    assert equal(*states)


def test_folding_all_layers_at_once_gives_each_the_bits_it_has_alone(layer: DeltaNet) -> None:
    states = [
        layer.prefill(inputs(64, seed), layer.new_state(torch.device("cpu")), 0, slice(0, 64))[1] for seed in (4, 5)
    ]
    parts = [layer.decode(inputs(8, 6 + index), [state], 5)[1] for index, state in enumerate(states)]
    both = LinearState.stacked(states, torch.device("cpu"))
    kinds = [[getattr(part, name) for part in parts] for name in ("conv", "k", "u", "decay")]
    both.fold(Ingredients(*(torch.stack(kind) for kind in kinds)).rows(0, 4))
    for alone, part, stacked in zip(states, parts, both.layers(), strict=True):
        alone.fold(part.rows(0, 4))
        assert equal(alone, stacked)
