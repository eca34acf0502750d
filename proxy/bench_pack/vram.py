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
    """Bytes. allocated: of live tensors, at the peak; reserved: what the allocator held of the device for them."""

    allocated: int
    reserved: int


@contextmanager
def peak(mode: str, found: dict[str, Vram], alone: bool) -> Iterator[None]:
    """Adds what is taken meanwhile to `found`. Without torch, or without CUDA in use, nothing happens."""
    before = _cuda() if alone else None
    if before is not None:
        before.empty_cache()  # what the mode before this one has let go of is not this one's
        before.reset_peak_memory_stats()
    try:
        yield
    finally:
        after = _cuda() if alone else None  # the engine may have brought torch
        if after is not None and after.is_initialized():
            now = Vram(after.max_memory_allocated(), after.max_memory_reserved())
            most = found.get(mode, now)
            if now.allocated:
                found[mode] = Vram(max(now.allocated, most.allocated), max(now.reserved, most.reserved))


def _cuda() -> Any:
    """torch's, if somebody has imported it and there is a device."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None
