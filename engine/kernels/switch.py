"""Whether kernels read compressed caches here, and why not where they do not.

Must not: import triton before a device needs it, or hide an error that torch operators would have too.
Invariant: once off for a reason, off for good; `read` then returns None and the caller's operators do the work.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.codecs.quantiser import Int8, LloydMax

if TYPE_CHECKING:
    from engine.compressed import CompressedCache
    from engine.softmax import Parts

INTERPRETED = False
"""Use kernels on a CPU too, in triton's interpreter: for tests, it is some hundred times slower than operators."""


class Kernels:
    """Of one model; its caches share it. on: kernels are in use; why: the reason if not, empty on a CPU."""

    def __init__(self, on: bool = False, why: str = "") -> None:
        self.on, self.why = on, why
        self._tilings: dict[tuple[int, int, int, int], int] = {}

    @classmethod
    def of(cls, device: torch.device) -> Kernels:
        """On for devices that triton compiles for."""
        if device.type != "cuda" and not (INTERPRETED and device.type == "cpu"):
            return cls()
        try:
            import_module("engine.kernels.attend")
        except Exception as error:  # a broken installation fails in its own way, and is no reason not to start
            return cls(False, f"triton cannot be used ({_told(error)})")
        return cls(True)

    def switch_off(self, why: str) -> None:
        self.on, self.why = False, why
        logging.getLogger(__name__).warning("compressed caches are read by torch operators: %s", why)

    def read(
        self, query: Tensor, shift: Tensor, edges: Tensor, cache: CompressedCache, visible_from: int = 0
    ) -> Parts | None:
        """Softmax parts over all coded rows; None: use operators.

        query, shift: fp32 [kv_heads, queries, d] and [kv_heads, queries, 1]; edges: int64 [1, 1, queries, 1].
        """
        layout = cache.layout
        # another quantiser, as a planted fault is, says itself how it is read
        if not self.on or not all(type(codec) in (Int8, LloydMax) for codec in (layout.keys, layout.values)):
            return None
        try:
            return self._read(query, shift, edges, cache, visible_from)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # compiler, driver and launcher each raise their own kinds
            self.switch_off(f"a kernel has failed ({_told(error)})")
            return None

    def _read(self, query: Tensor, shift: Tensor, edges: Tensor, cache: CompressedCache, visible_from: int) -> Parts:
        attend: Any = import_module("engine.kernels.attend")
        layout = cache.layout
        turned = torch.matmul(query, layout.keys.turn)
        shape = (layout.keys.bits, layout.values.bits, layout.dim, query.shape[1])
        while True:
            index = self._tilings.setdefault(shape, 0)
            try:
                found = attend.code_parts(turned, shift, edges, cache, visible_from, attend.TILINGS[index])
                break
            except attend.OutOfResources:
                if index + 1 == len(attend.TILINGS):
                    raise
                self._tilings[shape] = index + 1
        parts: Parts = type(found)(found.highest, found.total, torch.matmul(found.mixed, layout.values.turn.T))
        return parts


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
