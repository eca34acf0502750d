"""What was computed how: chunks stay apart, decoded runs are one, a cut leaves what lies before it."""

from __future__ import annotations

import pytest

from engine.provenance import Segment, common_prefix, prefilled, record, shortened


def test_chunks_stay_apart_and_decoded_runs_are_one() -> None:
    provenance: list[Segment] = []
    assert prefilled(provenance) == 0
    record(provenance, "prefill", 0, 128)
    record(provenance, "prefill", 128, 149)
    assert prefilled(provenance) == 149
    record(provenance, "decode", 149, 150)
    record(provenance, "decode", 150, 155)
    assert provenance == [Segment("prefill", 0, 128), Segment("prefill", 128, 149), Segment("decode", 149, 155)]
    assert prefilled(provenance) == 149


@pytest.mark.parametrize(
    ("length", "left"),
    [
        (0, []),
        (100, [Segment("prefill", 0, 100)]),
        (128, [Segment("prefill", 0, 128)]),
        (130, [Segment("prefill", 0, 128), Segment("decode", 128, 130)]),
        (999, [Segment("prefill", 0, 128), Segment("decode", 128, 140)]),
    ],
)
def test_a_cut_leaves_what_lies_before_it(length: int, left: list[Segment]) -> None:
    assert shortened([Segment("prefill", 0, 128), Segment("decode", 128, 140)], length) == left


@pytest.mark.parametrize(
    ("left", "right", "length"),
    [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 9], [1, 2, 3], 2), ([5], [6], 0), ([1, 2], [1, 2], 2)],
)
def test_common_prefix(left: list[int], right: list[int], length: int) -> None:
    assert common_prefix(left, right) == common_prefix(right, left) == length
    assert common_prefix(tuple(left), right) == length
