"""Gated DeltaNet: chunks equal the recurrence, and folding accepted rows equals decoding them, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import ModelConfig
from engine.deltanet import INNER, DeltaNet, LinearState, chunk
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
    out = layer.prefill(padded, filled, 0, slice(0, 100))[0][:100]
    rows = []
    for i in range(100):
        row, [parts] = layer.decode(x[i : i + 1], [stepped], [1])
        layer.fold(stepped, parts)
        rows.append(row)
    torch.testing.assert_close(out, torch.cat(rows), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(filled.memory, stepped.memory, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(filled.conv, stepped.conv)


def test_decode_leaves_the_state_alone(layer: DeltaNet) -> None:
    state = layer.new_state(torch.device("cpu"))
    layer.prefill(inputs(64), state, 0, slice(0, 64))
    before = state.clone()
    layer.decode(inputs(8, 1), [state], [8])
    assert equal(state, before)


@pytest.mark.parametrize("accepted", range(1, 9))
def test_folding_accepted_rows_is_decoding_them_one_by_one(layer: DeltaNet, accepted: int) -> None:
    block = torch.cat((inputs(accepted, 2), inputs(8 - accepted, 3)))
    fast = layer.new_state(block.device)
    layer.prefill(inputs(64), fast, 0, slice(0, 64))
    plain = fast.clone()
    out, [parts] = layer.decode(block, [fast], [8])
    layer.fold(fast, parts.rows(0, accepted))
    for i in range(accepted):
        single = torch.zeros(8, 64)
        single[0] = block[i]
        row, [one] = layer.decode(single, [plain], [1])
        layer.fold(plain, one)
        assert torch.equal(row[0], out[i])
    assert equal(fast, plain)


def test_padding_in_a_prefill_changes_nothing(layer: DeltaNet) -> None:
    """The same rows at an offset inside a chunk, with garbage around them."""
    x = inputs(20)
    states = [layer.new_state(x.device) for _ in range(2)]
    outs = []
    for state, noise in zip(states, (0.0, 50.0), strict=True):
        padded = torch.full((64, 64), noise)
        padded[30:50] = x
        outs.append(layer.prefill(padded, state, 0, slice(30, 50))[0][30:50])
    assert torch.equal(outs[0], outs[1])
    assert equal(*states)
