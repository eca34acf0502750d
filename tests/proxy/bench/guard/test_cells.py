"""The matrix has a place for every fault that can be planted, and asks of each what can be asked."""

from __future__ import annotations

from engine.faults import Fault
from policies.blame import Culprit
from policies.modes import DecodeMode
from proxy.bench.guard.cells import CELLS

OF_THE_WHOLE_CACHE = {"keys-scaled", "tile-lost"}
"""They damage the full cache, which plain decoding reads too: the shadow check tells them, and no mode is left to heal
them."""


def test_every_fault_has_a_cell() -> None:
    assert {cell.fault for cell in CELLS} == set(Fault) - OF_THE_WHOLE_CACHE


def test_modes_and_culprits_are_known() -> None:
    for cell in CELLS:
        assert str(DecodeMode.parse(cell.mode)) == cell.mode
        assert cell.culprit in {*Culprit, ""}
        assert (cell.culprit == "") == (cell.heals in ("honest_failure", "event"))


def test_what_lies_in_the_cache_is_healed_by_a_full_one() -> None:
    for cell in CELLS:
        if cell.culprit == "kv":
            assert cell.heals == "full"
            assert DecodeMode.parse(cell.mode).codec != "full"
