"""Full-precision rows of a prompt in host memory, beside the codes that the device keeps: what level L2 restores.

An engine that keeps shadows prefills in full precision and codes the prompt's rows when the last of them is there. So
the rows in the shadow, and the recurrent states that go with them, are those of `plain/full`, bit for bit. The price: a
prompt's full rows are on the device while it is prefilled. Without shadows a prompt reads codes as it grows.

Must not: be read by decoding, or be kept beyond the budget.
Invariant: a shadow holds the rows that prefill has computed in full precision, and nothing else.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.kv import TILE, KVCache

HOST = torch.device("cpu")


class Shadow:
    """caches: on the host, one per compressed layer, None for layers that stay full and need none."""

    def __init__(self, caches: Sequence[KVCache | None], length: int, copied: torch.cuda.Event | None = None) -> None:
        self.length = length
        self._caches, self._copied = tuple(caches), copied

    @classmethod
    def of(cls, caches: Sequence[KVCache | None], length: int) -> Shadow:
        """Copies the first `length` rows, from a CUDA device in the background. Spare room is left out."""
        if not any(cache is not None and cache.keys.device.type == "cuda" for cache in caches):
            return cls([cache and cache.fork(length) for cache in caches], length)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            host = [cache and cache.moved(HOST, length) for cache in caches]
            copied.record(stream)
        return cls(host, length, copied)

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def tensors(self) -> list[Tensor]:
        return [tensor for cache in self._caches if cache is not None for tensor in cache.tensors()]

    def restored(self, device: torch.device) -> list[KVCache | None]:
        """Independent caches on the device."""
        if self._copied is not None:
            self._copied.synchronize()
        caches = [cache and cache.moved(device, self.length) for cache in self._caches]
        for cache in caches:
            if cache is not None:
                cache.truncate(self.length)
        return caches

    def fork(self, length: int) -> Shadow:
        """An independent shadow of the first `length` rows, or of all if there are fewer."""
        if self._copied is not None:
            self._copied.synchronize()
        length = min(length, self.length)
        return Shadow([cache and cache.fork(length) for cache in self._caches], length)


class ShadowBudget:
    """limit: most bytes of all shadows that are alive. Who finds no room goes without, and later takes L3."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._alive: weakref.WeakSet[Shadow] = weakref.WeakSet()

    @property
    def used(self) -> int:
        return sum(shadow.nbytes for shadow in self._alive)

    def keep(self, caches: Sequence[KVCache | None], length: int) -> Shadow | None:
        """A shadow of these rows if it has room."""
        rows = sum(2 * c.keys[0].numel() * c.keys.element_size() for c in caches if c is not None and c.capacity)
        if self.used + rows * -(-length // TILE) > self.limit:
            return None
        return self.count(Shadow.of(caches, length))

    def count(self, shadow: Shadow | None) -> Shadow | None:
        """Takes a copy of a shadow into account; None if it does not fit."""
        if shadow is None or self.used + (0 if shadow in self._alive else shadow.nbytes) > self.limit:
            return None
        self._alive.add(shadow)
        return shadow
