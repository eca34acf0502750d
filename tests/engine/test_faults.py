"""What a decode call sees of the cache while a fault is planted."""

from __future__ import annotations

from engine.faults import FAR, Fault, first_visible


def test_far_context_strikes_behind_its_length_and_only_several_rows() -> None:
    assert first_visible(Fault.FAR_CONTEXT, FAR, 4) == 0
    assert first_visible(Fault.FAR_CONTEXT, FAR + 1, 4) == FAR + 1
    assert first_visible(Fault.FAR_CONTEXT, FAR + 1, 1) == 0
    assert first_visible(Fault.VERIFY_IGNORES_CACHE, 9, 2) == 9
    assert first_visible(None, FAR + 1, 4) == 0
