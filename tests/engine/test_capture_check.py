"""Captures are used where they give the code's bits, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture_check import check_captures
from engine.decoding import Decoding
from engine.model import Model
from engine.moe import MoE
from engine.mtp import MtpHead
from engine.selftest import self_test
from engine.state import SequenceState
from tests.engine.readers import no_cuda
from tests.engine.zoo import write


@pytest.fixture
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(bool(no_cuda()), reason=no_cuda()))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_shape_is_captured_and_holds(tiny_folder: Path, dtype: torch.dtype, device: str) -> None:
    model = Model.load(tiny_folder, device, dtype=dtype)
    assert check_captures(model, blocks=8, every=True)
    assert (model.captures.on, model.captures.why) == (True, "")
    pieces = sum(layer.attention is not None for layer in model.layers) + 1
    assert len(model.captures) == (model.rows + 1) * pieces + 4, "and the head's, filled and chained"


def test_the_start_looks_at_a_few_shapes(tiny_folder: Path) -> None:
    model = Model.load(tiny_folder)
    assert check_captures(model, blocks=8)
    pieces = sum(layer.attention is not None for layer in model.layers) + 1
    assert len(model.captures) == 4 * pieces + 4


def test_no_compiler_is_loaded() -> None:
    """Recording must not cost what torch's compiler takes to import."""
    code = (
        "import sys, torch; from engine.recording import Recording; x = torch.ones(3); Recording(lambda: x * 2); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def frozen_positions(patch: pytest.MonkeyPatch) -> None:
    """A piece takes where it stands from the host, which a replay never asks again."""
    sound = Decoding._filled

    def filled(self: Decoding, blocks: Any) -> Any:
        buffers = sound(self, blocks)
        self._rope = Frozen(self._rope, blocks[0].state.length)  # type: ignore[assignment]
        return buffers

    class Frozen:
        def __init__(self, rope: Any, start: int) -> None:
            self.rope, self.start = getattr(rope, "rope", rope), start

        def at(self, positions: torch.Tensor) -> Any:
            return self.rope.angles(self.start, positions.shape[0])

        def rotate(self, *inputs: Any) -> Any:
            return self.rope.rotate(*inputs)

    patch.setattr(Decoding, "_filled", filled)


def states_not_copied(patch: pytest.MonkeyPatch) -> None:
    """The recurrence of a capture goes on from the state of the sequence that it was captured with."""

    def through(self: Decoding, index: int, buffers: Any, shape: Any, before: Any) -> Any:
        return sound(self, index, replace(buffers, states=tuple(state.linear for state in last)), shape, before)

    sound, fill, last = Decoding._through, Decoding._filled, list[SequenceState]()

    def filled(self: Decoding, blocks: Any) -> Any:
        last[:] = [block.state for block in blocks]
        return fill(self, blocks)

    patch.setattr(Decoding, "_through", through)
    patch.setattr(Decoding, "_filled", filled)


def stale_tokens_in_the_head(patch: pytest.MonkeyPatch) -> None:
    sound = MtpHead._before

    def before(self: MtpHead, kept: Any) -> Any:
        x, *rest = sound(self, kept)
        return x + float(self.__dict__.setdefault("calls", [0]).__len__()), *rest

    counted = MtpHead._forward

    def forward(self: MtpHead, *inputs: Any) -> Any:
        self.__dict__.setdefault("calls", [0]).append(1)
        return counted(self, *inputs)

    patch.setattr(MtpHead, "_before", before)
    patch.setattr(MtpHead, "_forward", forward)


@pytest.mark.parametrize("plant", [frozen_positions, states_not_copied, stale_tokens_in_the_head])
def test_a_value_of_the_host_in_a_capture_is_found(model: Model, plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert not check_captures(model)
    assert not model.captures.on
    assert "other bits" in model.captures.why
    assert len(model.captures) == 0


@pytest.mark.parametrize("rows", [1, 2])
def test_narrow_steps_are_captured_too(tiny_folder: Path, rows: int) -> None:
    assert check_captures(Model.load(tiny_folder, rows=rows), blocks=8)


def test_experts_need_the_host_on_a_cpu(tmp_path: Path) -> None:
    model = Model.load(write(tmp_path / "moe", "qwen3_moe"))
    assert not check_captures(model)
    assert "needs the host" in model.captures.why


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next", "qwen3_5_moe"])
def test_gathered_experts_need_it_not(tmp_path: Path, architecture: str, device: str) -> None:
    """As on a GPU: the host is not asked which experts were chosen."""
    model = Model.load(write(tmp_path / architecture, architecture), device)
    for layer in model.layers:
        if isinstance(layer.mlp, MoE):
            layer.mlp.gathers = True
    assert check_captures(model, blocks=2)
    test = self_test(model)
    assert (test.exactness, test.blocks) == ("bitwise", 8)


def test_what_was_switched_off_stays_off(model: Model) -> None:
    model.captures.switch_off("for a test")
    assert not check_captures(model)
    assert model.captures.why == "for a test"
