"""Values of the host on their way to a device.

Must not: wait for the device.
Invariant: what is copied is safe from being overwritten before the copy is done; pinned memory is given back by torch
only then.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_host(values: Sequence[Sequence[int]] | Sequence[int], device: torch.device) -> Tensor:
    """int64 values in memory from which `copy_` and `to` with `non_blocking` reach the device without waiting."""
    return torch.tensor(values if isinstance(values, list) else list(values), pin_memory=device.type == "cuda")
