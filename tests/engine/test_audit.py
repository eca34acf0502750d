"""The audit sees a verify step that differs in one bit, says where, and leaves the step as it was."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.audit import audit_step
from engine.faults import Fault
from engine.model import Model
from engine.state import SequenceState


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def filled(model: Model) -> SequenceState:
    state = model.new_state()
    model.prefill(state, ids(40))
    state.checkpoint()
    return state


def test_a_sound_step_passes_and_stands(model: Model) -> None:
    state, plain = filled(model), filled(model)
    block = ids(6, 1)
    rows = model.decode(state, block)
    report = audit_step(model, state, block[:4], rows)
    assert (report.rows, report.mismatch, report.max_abs_diff) == (4, None, 0.0)
    model.commit(state, 4)
    for token in block[:4]:
        model.decode(plain, [token])
        model.commit(plain, 1)
    assert state.fingerprint() == plain.fingerprint()


def test_the_planted_fault_is_found_in_its_first_row(model: Model) -> None:
    state, block = filled(model), ids(4, 1)
    report = audit_step(model, state, block, model.decode(state, block, Fault.VERIFY_IGNORES_CACHE))
    assert report.mismatch == 0
    assert report.max_abs_diff > 1e-3


@pytest.mark.parametrize("part", ["logits", "hidden"])
def test_one_bit_in_one_row_is_enough(model: Model, part: str) -> None:
    state, block = filled(model), ids(4, 1)
    rows = model.decode(state, block)
    changed = getattr(rows, part).clone()
    with torch.inference_mode():
        changed[2, 5] = torch.nextafter(changed[2, 5], torch.tensor(1e9))
    report = audit_step(model, state, block, replace(rows, **{part: changed}))
    assert report.mismatch == 2


def test_nan_is_a_mismatch(model: Model) -> None:
    state, block = filled(model), ids(2, 1)
    rows = model.decode(state, block)
    logits = rows.logits.clone()
    with torch.inference_mode():
        logits[1] = torch.nan
    report = audit_step(model, state, block, replace(rows, logits=logits))
    assert (report.mismatch, report.max_abs_diff) == (1, float("inf"))
