"""Seals: checksums of committed codes, taken when they are written and looked at again later.

Must not: know what codes mean, or stand in for the read-back (a seal keeps wrong codes as well as right ones).
Invariant: committed codes never change, so a seal that does not fit proves that something else has written there, or
that memory has failed. A sound cache cannot be accused: the sums are of integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.codecs.spec import FLUSH
from engine.kv import TILE

BLOCKS = TILE // FLUSH
"""Seals of a tile and a key head."""
_ODD = 0x1E3779B97F4A7C15


def seal(stored: tuple[Tensor, ...], first: int, last: int) -> Tensor:
    """stored: codes and scales [tiles, heads, 256, ..]. Returns int64 [last - first, heads, 4], one sum per block.

    A weighted sum modulo 2^64: every weight is odd, so one changed word always changes it.
    """
    size = (last - first, stored[0].shape[1], BLOCKS, -1)
    words = torch.cat([part[first:last].flatten(2).view(torch.int64).view(size) for part in stored], -1)
    weights = torch.arange(1, 2 * words.shape[-1], 2, dtype=torch.int64, device=words.device) * _ODD
    return (words * weights).sum(-1)


def broken(stored: tuple[Tensor, ...], seals: Tensor, first: int, last: int, coded: int) -> Tensor:
    """Whether each block of these tiles, below `coded` rows, is no longer what was sealed: bool [tiles, heads, 4]."""
    blocks = torch.arange(first * BLOCKS, last * BLOCKS, device=seals.device).view(-1, 1, BLOCKS)
    return (seal(stored, first, last) != seals[first:last]) & (blocks < coded // FLUSH)
