"""KV cache of one attention layer, read in fixed tiles of 256 tokens. Codec `full`: keys and values as computed.

Must not: know which tokens are committed (the state's cursor does).
Invariant: a tile's content at a position depends only on the last write to it; rows behind the newest are zero,
because attention weighs masked values with 0 instead of leaving them out, and 0 * NaN is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 256


class KVCache:
    """keys, values: [kv_heads, capacity, head_dim]; capacity grows in whole tiles."""

    codec = "full"

    def __init__(self, heads: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.zeros(heads, 0, dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    @property
    def capacity(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def write(self, position: int, keys: Tensor, values: Tensor, clear: int = 0) -> None:
        """Stores rows [rows, heads, dim] from `position` on and zeroes `clear` rows behind them."""
        rows = keys.shape[0]
        self._reserve(position + rows + clear)
        self.keys[:, position : position + rows] = keys.transpose(0, 1)
        self.values[:, position : position + rows] = values.transpose(0, 1)
        if clear:
            # a rejected row may hold NaN
            self.keys[:, position + rows : position + rows + clear] = 0
            self.values[:, position + rows : position + rows + clear] = 0

    @torch.inference_mode()
    def truncate(self, length: int) -> None:
        """Zeroes all rows from `length` on."""
        self.keys[:, length:] = 0
        self.values[:, length:] = 0

    def tile(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [heads, 256, dim] fp32 of positions 256 * index on."""
        at = slice(index * TILE, (index + 1) * TILE)
        return self.keys[:, at].float(), self.values[:, at].float()

    def committed(self, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values [heads, length, dim], as stored."""
        return self.keys[:, :length], self.values[:, :length]

    def clone(self) -> KVCache:
        other = KVCache.__new__(KVCache)
        other.keys, other.values = self.keys.clone(), self.values.clone()
        return other

    def fork(self, length: int) -> KVCache:
        """An independent cache that holds the first `length` rows."""
        tiles = -(-length // TILE) * TILE
        other = KVCache.__new__(KVCache)
        other.keys, other.values = self.keys[:, :tiles].clone(), self.values[:, :tiles].clone()
        other.truncate(length)
        return other

    def _reserve(self, size: int) -> None:
        if size <= self.capacity:
            return
        # doubling keeps the copies linear in the final length
        tiles = -(-max(size, 2 * self.capacity) // TILE)
        self.keys = _grown(self.keys, tiles * TILE)
        self.values = _grown(self.values, tiles * TILE)


def _grown(old: Tensor, capacity: int) -> Tensor:
    new = torch.zeros(old.shape[0], capacity, old.shape[2], dtype=old.dtype, device=old.device)
    new[:, : old.shape[1]] = old
    return new
