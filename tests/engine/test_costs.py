"""Costs are measured on the device, of the calls that a turn makes, and leave nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.costs import REPEATS, WARM_UP, measure_costs
from engine.engine import Engine
from engine.model import Model
from engine.pacing import TYPICAL


def test_all_costs_are_measured(tiny_folder: Path) -> None:
    costs = measure_costs(Model.load(tiny_folder), 260)
    assert costs.step_ms > 0
    assert costs.row_ms >= 0
    assert costs.mtp_first_ms is not None
    assert costs.mtp_next_ms is not None
    assert min(costs.mtp_first_ms, costs.mtp_next_ms) > 0


def test_a_model_without_head_has_no_costs_of_one(untied_folder: Path) -> None:
    costs = measure_costs(Model.load(untied_folder), 260)
    assert (costs.mtp_first_ms, costs.mtp_next_ms) == (None, None)


@pytest.mark.parametrize(("rows", "context"), [(1, 2048), (8, 34)])
def test_narrow_steps_and_small_contexts_fit(tiny_folder: Path, rows: int, context: int) -> None:
    model = Model.load(tiny_folder, rows=rows)
    model.config = replace(model.config, max_context=context)
    costs = measure_costs(model, 260)
    assert costs.step_ms > 0
    assert costs.row_ms == 0


def test_plain_steps_are_few(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = Model.load(tiny_folder), [0]
    sound = model.decode

    def counted(*arguments: object) -> object:
        calls[0] += 1
        return sound(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "decode", counted)
    measure_costs(model, 260)
    assert calls[0] == 2 * (REPEATS + WARM_UP)


def test_the_engine_measures_with_its_self_test(tiny_folder: Path) -> None:
    engine = Engine(tiny_folder)
    assert engine.costs is TYPICAL
    engine.self_test()
    assert engine.costs is not TYPICAL
    assert engine._new_sequence().pacer.costs is engine.costs
