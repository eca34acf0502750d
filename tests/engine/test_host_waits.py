"""How often a step waits for the device: once for what was verified, and once for what a head has drafted.

What would wait on a GPU is seen on a CPU too: every call that hands a tensor's value to the host, and every tensor that
is made on a device from values of the host without being told not to wait.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from engine.engine import Engine, EngineOptions
from engine.sampler import SamplingParams
from engine.turn import Turn, TurnOptions
from tests.engine.readers import no_cuda

READS = {"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "numpy", "cpu", "nonzero", "equal"}
MAKES = {"tensor", "as_tensor", "asarray"}
WAITING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero"}
SAMPLED = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.01, seed=3)


class Waits(TorchFunctionMode):
    """Names of the calls that wait, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, named = getattr(func, "__name__", ""), kwargs or {}
        if name in READS or (name in MAKES and named.get("device") is not None):
            self.found.append(name)
        return func(*args, **named)


class Operators(TorchDispatchMode):
    """The same below Python's functions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.split("::")[1]
        if name in WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def begun(folder: Path, drafter: str, sampling: SamplingParams, logprobs: int = 0, device: str = "cpu") -> Any:
    engine = Engine(folder, EngineOptions(device))
    if device == "cuda":
        engine.self_test()
    engine.tokenizer.eos_ids = frozenset()
    options = TurnOptions(sampling=sampling, drafter=drafter, max_tokens=100, audit_every=0, logprobs=logprobs)
    turn = engine.open(engine.tokenizer.encode("abc" * 30), options)
    list(turn.sequence.prefill())
    for _ in range(3):
        engine.step([turn])
    return engine, turn


def waits(engine: Engine, turn: Turn) -> list[str]:
    with Operators() as below, Waits() as found:
        (result,) = engine.step([turn])
    assert not isinstance(result, Exception)
    assert below.found == []
    return found.found


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("drafter", ["none", "ngram"])
def test_a_step_waits_once(tiny_folder: Path, drafter: str, sampling: SamplingParams) -> None:
    engine, turn = begun(tiny_folder, drafter, sampling, logprobs=3)
    for _ in range(6):
        assert waits(engine, turn) == ["tolist"]


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_drafts_of_the_head_are_waited_for_once(tiny_folder: Path, sampling: SamplingParams) -> None:
    engine, turn = begun(tiny_folder, "mtp", sampling)
    drafted = 0
    for _ in range(6):
        before = turn.sequence.length
        found = waits(engine, turn)
        drafted += len(found) == 2
        assert found in (["tolist"], ["tolist", "tolist"])
        assert turn.sequence.length > before
    assert drafted, "the head was not asked"


def test_penalties_wait_once_for_each_draft(tiny_folder: Path) -> None:
    """What was drafted counts for the next draft, so it must be known; once is enough."""
    _, turn = begun(tiny_folder, "mtp", SamplingParams(presence_penalty=0.5))
    drafter = turn.sequence.drafters["mtp"]
    with Waits() as found:
        drafts = drafter.propose(7)
    assert len(drafts) == 7
    assert found.found == ["__int__"] * 6 + ["tolist"]


def test_several_turns_wait_once_each(tiny_folder: Path) -> None:
    engine, turn = begun(tiny_folder, "none", SamplingParams())
    engine.max_blocks = 2
    other = engine.open(engine.tokenizer.encode("xyz" * 20), TurnOptions(max_tokens=100, audit_every=0))
    list(other.sequence.prefill())
    with Waits() as found:
        engine.step([turn, other])
    assert found.found == ["tolist", "tolist"]


def test_a_wait_is_seen(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, turn = begun(tiny_folder, "none", SamplingParams())
    norm = engine.model.norm
    monkeypatch.setattr(engine.model.decoding, "_norm", lambda x: norm(x) * min(float(Tensor.sum(x)), 1.0))
    with Waits() as found:
        engine.step([turn])
    assert found.found == ["__float__", "tolist"]
    monkeypatch.setattr(engine.model.decoding, "_norm", lambda x: norm(x) + torch.tensor(0.0, device="cpu"))
    with Waits() as found:
        engine.step([turn])
    assert found.found == ["tensor", "tolist"]


@pytest.mark.skipif(bool(no_cuda()), reason=no_cuda())
@pytest.mark.parametrize("drafter", ["none", "mtp"])
def test_a_gpu_says_the_same(tiny_folder: Path, drafter: str) -> None:
    """torch's own watch over calls that synchronise."""
    engine, turn = begun(tiny_folder, drafter, SAMPLED, device="cuda")
    assert engine.model.captures.on, engine.model.captures.why
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            engine.step([turn])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 1 <= len(caught) <= (2 if drafter == "mtp" else 1), [str(each.message) for each in caught]
