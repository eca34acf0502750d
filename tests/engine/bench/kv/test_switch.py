"""The switch table: every level is really taken, and L2 and L3 agree."""

from __future__ import annotations

import torch

from engine.bench.kv.contexts import random_model
from engine.bench.kv.switch import RESPONSE, Switch, Switches, measure_switches, switch_bars, switch_table
from engine.bench.shape import shape_config
from tests.engine.bench.test_shape import SMALL


def test_all_levels_are_taken() -> None:
    model = random_model(shape_config("qwen3.6-27b", 4, **SMALL), 300, "cpu", torch.float32)
    switches = measure_switches(model, 200)
    assert [s.level for s in switches.found] == ["L0", "L1", "L2", "L3"]
    assert switches.equal
    rebuilt = {s.level: s.rebuilt for s in switches.found}
    assert rebuilt["L1"] == 0
    assert rebuilt["L2"] == RESPONSE - 4
    assert rebuilt["L3"] == 199 + RESPONSE - 4
    assert len(switch_table([switches]).rows) == 4


def test_bars() -> None:
    def at(context: int, l3: float, equal: bool) -> Switches:
        levels = (Switch("L2", context, 10.0, 1), Switch("L3", context, l3, 1))
        return Switches(levels, equal)

    bars = switch_bars([at(10, 1.0, True), at(20, 60.0, False)])
    assert [(bar.name, bar.measured, bar.holds) for bar in bars] == [
        ("way back at 20 tokens: L3 / L2", 6.0, True),
        ("contexts at which L2 and L3 leave equal bits", 1, False),
    ]
