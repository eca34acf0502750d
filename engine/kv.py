"""KV cache of one attention layer, stored in fixed tiles of 256 tokens. Codec `full`: keys and values as computed.

Must not: know which tokens are committed (the state's cursor does).
Invariant: a tile's content at a position depends only on the last write to it; rows behind the newest are zero,
because attention weighs masked values with 0 instead of leaving them out, and 0 * NaN is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 256


class KVCache:
    """keys, values: [tiles, kv_heads, 256, head_dim]: all heads of a tile lie together, so that a run of tiles is one
    batch of equal matrices without a copy; capacity grows in whole tiles."""

    codec = "full"

    def __init__(self, heads: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = torch.zeros(0, heads, TILE, dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)

    @property
    def capacity(self) -> int:
        return self.keys.shape[0] * TILE

    @property
    def heads(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    @torch.inference_mode()
    def write(self, position: int, keys: Tensor, values: Tensor, clear: int = 0) -> None:
        """Stores rows [rows, heads, dim] from `position` on and zeroes `clear` rows behind them."""
        rows = keys.shape[0]
        # doubling keeps the copies linear in the final length
        if position + rows + clear > self.capacity:
            self.reserve(max(position + rows + clear, 2 * self.capacity))
        done = 0
        for tile, at in pieces(position, position + rows):
            count = at.stop - at.start
            self.keys[tile, :, at] = keys[done : done + count].transpose(0, 1)
            self.values[tile, :, at] = values[done : done + count].transpose(0, 1)
            done += count
        for tile, at in pieces(position + rows, position + rows + clear):
            # a rejected row may hold NaN
            self.keys[tile, :, at] = 0
            self.values[tile, :, at] = 0

    def settle(self, length: int) -> None:
        """The first `length` rows are committed: nothing to do, rows stay as they were written."""

    def restorable(self, length: int) -> int:
        """The highest length up to `length` that `truncate` can cut back to: any."""
        return length

    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that is alive because of this cache."""
        return self.keys, self.values

    @torch.inference_mode()
    def truncate(self, length: int) -> None:
        """Zeroes all rows from `length` on."""
        tile, row = divmod(length, TILE)
        for stored in (self.keys, self.values):
            stored[tile : tile + 1, :, row:] = 0
            stored[tile + 1 :] = 0

    def tiles(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Keys and values [last - first, heads, 256, dim] fp32 of the tiles first..last-1."""
        return self.keys[first:last].float(), self.values[first:last].float()

    def rows(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values [end - start, heads, dim] fp32 of these positions, copied."""
        first = start // TILE
        at = slice(start - first * TILE, end - first * TILE)
        keys, values = (x.transpose(1, 2).flatten(0, 1)[at] for x in self.tiles(first, -(-end // TILE)))
        return keys, values

    def committed(self, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values [heads, length, dim], as stored."""
        keys, values = (x.transpose(0, 1).flatten(1, 2)[:, :length] for x in (self.keys, self.values))
        return keys, values

    def clone(self) -> KVCache:
        """An independent copy."""
        return self._copy(self.keys.shape[0])

    def fork(self, length: int) -> KVCache:
        """An independent cache that holds the first `length` rows."""
        other = self._copy(-(-length // TILE))
        other.truncate(length)
        return other

    def moved(self, device: torch.device, length: int) -> KVCache:
        """A copy of the first `length` rows on another device, or on the same one; to the host in pinned memory and
        without waiting for it."""
        other = KVCache.__new__(KVCache)
        tiles = -(-length // TILE)
        pinned = device.type == "cpu" and self.keys.device.type == "cuda"
        for name in ("keys", "values"):
            source = getattr(self, name)[:tiles]
            target = torch.empty(source.shape, dtype=source.dtype, device=device, pin_memory=pinned)
            if pinned:
                source.record_stream(torch.cuda.current_stream())
            setattr(other, name, target.copy_(source, non_blocking=pinned))
        return other

    def _copy(self, tiles: int) -> KVCache:
        other = KVCache.__new__(KVCache)
        other.keys, other.values = self.keys[:tiles].clone(), self.values[:tiles].clone()
        return other

    @torch.inference_mode()
    def reserve(self, size: int) -> None:
        """Makes room for `size` rows, and for no more."""
        if size > self.capacity:
            tiles = -(-size // TILE)
            self.keys, self.values = grown(self.keys, tiles), grown(self.values, tiles)


def pieces(start: int, end: int) -> list[tuple[int, slice]]:
    """The rows start..end-1 as (tile, rows of that tile)."""
    pieces = []
    while start < end:
        tile, row = divmod(start, TILE)
        count = min(TILE - row, end - start)
        pieces.append((tile, slice(row, row + count)))
        start += count
    return pieces


def grown(old: Tensor, tiles: int) -> Tensor:
    """`old` with room for so many tiles; what is new is zero."""
    new = torch.zeros(tiles, *old.shape[1:], dtype=old.dtype, device=old.device)
    new[: old.shape[0]] = old
    return new
