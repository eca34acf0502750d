"""The start-up check: sound kernels pass for every codec, planted faults switch them off and are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.codecs.spec import SPECS
from engine.engine import Engine
from engine.kernels.check import TOLERANCE, check_codec, check_kernels
from engine.model import Model
from engine.selftest import SelfTest, self_test
from engine.softmax import Parts
from tests.engine.readers import reader


@pytest.fixture
def model(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    reader("triton", monkeypatch)
    return Model.load(tiny_folder)


@pytest.mark.parametrize(
    "codec", ["k3v3", *(pytest.param(c, marks=pytest.mark.slow) for c in ("k8v8", "k8v4", "k4v4", "k4v2"))]
)
def test_sound_kernels_pass(model: Model, codec: str) -> None:
    check = check_codec(model, codec)
    assert check is not None
    assert (check.sound, model.kernels.on, model.kernels.why) == (True, True, "")
    assert check.off < 1e-5, "the interpreter computes in fp32"


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["k4v4", "k3v3"])
def test_speculative_rows_are_plain_ones(model: Model, codec: str) -> None:
    """A whole model's steps through the kernels, with rejected drafts, across an edge."""
    result = self_test(model, tokens=8, max_blocks=1, codec=codec)
    assert model.kernels.on
    assert (result.exactness, result.mismatches) == ("bitwise", 0)


def scale_of_values_wrong(parts: Parts, number: int) -> Parts:
    return Parts(parts.highest, parts.total, parts.mixed * (1 + 3 * TOLERANCE))


def half_of_v_missing(parts: Parts, number: int) -> Parts:
    mixed = parts.mixed.clone()
    mixed[..., mixed.shape[-1] // 2 :] = 0
    return Parts(parts.highest, parts.total, mixed)


def not_a_number(parts: Parts, number: int) -> Parts:
    return Parts(parts.highest, parts.total, parts.mixed * torch.nan)


def neighbours_seep_in(parts: Parts, number: int) -> Parts:
    return Parts(parts.highest, parts.total, parts.mixed + parts.mixed.mean(1, keepdim=True) * 1e-7)


def order_of_arrival(parts: Parts, number: int) -> Parts:
    """As atomics would."""
    return Parts(parts.highest, parts.total, parts.mixed * (1 + 2e-7 * (number % 3)))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (scale_of_values_wrong, "of its length"),
        (half_of_v_missing, "of its length"),
        (not_a_number, "depends on its neighbours"),
        (neighbours_seep_in, "depends on its neighbours"),
        (order_of_arrival, "depends on its neighbours"),
    ],
)
def test_a_wrong_kernel_is_switched_off(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Parts, int], Parts], why: str
) -> None:
    """The operators in a kernel's place, with a fault: no triton is needed to see it."""
    model = planted(tiny_folder, monkeypatch, fault)
    found = check_kernels(model, list(SPECS))
    assert len(found) == 1, "nothing is checked behind a failure"
    assert not found[0].sound
    assert not model.kernels.on
    assert why in model.kernels.why


def test_operators_in_a_kernels_place_pass(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = planted(tiny_folder, monkeypatch, lambda parts, number: parts)
    assert [check.codec for check in check_kernels(model, list(SPECS)) if check.sound] == list(SPECS)
    assert model.kernels.on


def test_the_engine_tells(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny_folder)
    engine.model = planted(tiny_folder, monkeypatch, half_of_v_missing)
    test = engine.self_test()
    assert test.exactness == "bitwise"
    assert not engine.model.kernels.on
    assert engine.model.notes[-1].startswith("compressed caches are read by torch operators: with k8v8 a row differs")


@pytest.mark.parametrize("without", ["bitwise", "distribution"])
def test_speculative_rows_decide_too(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """Kernels go where they are what makes speculation inexact, and stay where they are not."""
    engine = Engine(tiny_folder)
    engine.model = planted(tiny_folder, monkeypatch, lambda parts, number: parts)

    def tested(model: Model, max_blocks: int = 8, codec: str = "full") -> SelfTest:
        exact = "bitwise" if codec == "full" or (not model.kernels.on and without == "bitwise") else "distribution"
        return SelfTest(exact, 1, 0, True, max_blocks, 1.0)  # type: ignore[arg-type]

    monkeypatch.setattr("engine.engine.self_test", tested)
    assert engine.self_test().exactness == without
    assert engine.model.kernels.on == (without == "distribution")
    assert bool(engine.model.kernels.why) == (without == "bitwise")


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Parts, int], Parts]) -> Model:
    from engine.code_attention import read_by_operators
    from engine.kernels.switch import Kernels

    model = Model.load(folder)
    calls = [0]

    def read(query: Any, shift: Any, edges: Any, cache: Any, visible_from: int) -> Parts:
        calls[0] += 1
        # one group of tiles, as for every call of the engine's own
        parts = read_by_operators(query, shift, edges, cache, 1, 0, max(visible_from, 1))
        return fault(parts, calls[0])

    kernels = Kernels(True)
    monkeypatch.setattr(kernels, "_read", read)
    model.kernels = kernels
    return model
