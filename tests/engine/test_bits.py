"""Two computations that both give no number agree; one that does alone is different in any bit."""

from __future__ import annotations

import pytest
import torch

from engine.bits import equal

NAN = float("nan")


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.0000002], False),
        ([NAN, 2.0], [NAN, 2.0], True),
        ([NAN, 2.0], [NAN, 3.0], False),
        ([NAN, 2.0], [2.0, NAN], False),
        ([NAN, 2.0], [1.0, 2.0], False),
        ([float("inf")], [float("inf")], True),
        ([float("inf")], [-float("inf")], False),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_equal(ours: list[float], theirs: list[float], same: bool) -> None:
    assert equal(torch.tensor(ours), torch.tensor(theirs)) is same
    assert equal(torch.tensor(theirs), torch.tensor(ours)) is same
