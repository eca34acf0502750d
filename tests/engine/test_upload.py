"""Values of the host reach the device as they are."""

from __future__ import annotations

import torch

from engine.upload import on_host


def test_values_of_any_sequence() -> None:
    cpu = torch.device("cpu")
    for values in ([3, 1, 2], (3, 1, 2), range(3)):
        found = on_host(values, cpu)
        assert (found.tolist(), found.dtype) == (list(values), torch.int64)
    assert on_host([[1, 2], [3, 4]], cpu).tolist() == [[1, 2], [3, 4]]
