"""Memory of a CUDA device that a mode has taken at most, where there is such a device.

Must not: import torch, or say anything of a device that the engine does not run on.
Invariant: a figure is of one mode alone: nothing is told where several engines stand side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Vram:
    """Bytes, of all devices. allocated: of live tensors, at the peak; reserved: what the allocator held for them."""

    allocated: int
    reserved: int


@contextmanager
def peak(mode: str, found: dict[str, Vram], alone: bool) -> Iterator[None]:
    """Adds what is taken meanwhile to `found`. Without torch, or without CUDA in use, nothing happens."""
    before = _cuda() if alone else None
    if before is not None:
        before.empty_cache()  # what the mode before this one has let go of is not this one's
        for device in range(before.device_count()):
            before.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        after = _cuda() if alone else None  # the engine may have brought torch
        if after is not None:
            devices = range(after.device_count())
            now = Vram(sum(map(after.max_memory_allocated, devices)), sum(map(after.max_memory_reserved, devices)))
            most = found.get(mode, now)
            if now.allocated:
                found[mode] = Vram(max(now.allocated, most.allocated), max(now.reserved, most.reserved))


def _cuda() -> Any:
    """torch's, if somebody has imported it, there is a device, and it is in use."""
    torch = sys.modules.get("torch")
    in_use = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda if torch is not None and in_use else None
