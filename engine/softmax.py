"""Softmax over parts of the keys, combined online (Milakov and Gimelshein 1805.02867).

Must not: know how keys are stored.
Invariant: a part in which nothing can be seen is an exact no-op, and sums fold in an order that positions decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kv import TILE


@dataclass(frozen=True, slots=True)
class Parts:
    """Of some keys: highest score and sum of weights [kv_heads, queries, 1], weighted values [kv_heads, queries, d]."""

    highest: Tensor
    total: Tensor
    mixed: Tensor

    def and_then(self, other: Parts) -> Parts:
        """Both together."""
        top = torch.maximum(self.highest, other.highest)
        # padding rows may see nothing at all; they are dropped, but must not spread NaN
        base = top.masked_fill(top == -torch.inf, 0.0)
        keep, take = torch.exp(self.highest - base), torch.exp(other.highest - base)
        return Parts(top, self.total * keep + other.total * take, self.mixed * keep + other.mixed * take)

    def output(self, rows: int) -> Tensor:
        """fp32 [rows, heads * d] of `spread_queries`' layout."""
        out = self.mixed / self.total.clamp_min(torch.finfo(torch.float32).tiny)
        kv_heads, queries, dim = out.shape
        groups = queries // rows
        ordered = out.view(kv_heads, groups, rows, dim).permute(2, 0, 1, 3)
        return ordered.reshape(rows, kv_heads * groups * dim)


def spread_queries(q: Tensor, kv_heads: int) -> Tensor:
    """q: [rows, heads, d]. Returns fp32 [kv_heads, groups * rows, d], scaled: every row of queries that shares a key
    head in one product."""
    rows, heads, dim = q.shape
    groups = heads // kv_heads
    query = q.float().view(rows, kv_heads, groups, dim).permute(1, 2, 0, 3).reshape(kv_heads, groups * rows, dim)
    return query.mul(dim**-0.5)


def row_positions(position: int, rows: int, groups: int, device: torch.device) -> Tensor:
    """Absolute positions of `spread_queries`' rows: int64 [1, 1, groups * rows, 1]."""
    return torch.arange(position, position + rows, device=device).repeat(groups)[None, None, :, None]


def hidden_keys(first: int, last: int, at: Tensor, visible_from: int = 0) -> Tensor:
    """Which keys of the tiles first..last-1 rows at the positions `at` must not see: bool [last - first, 1, groups *
    rows, 256]."""
    keys = torch.arange(first * TILE, last * TILE, device=at.device).view(last - first, 1, 1, TILE)
    hidden = keys > at
    if visible_from:
        hidden |= keys < visible_from
    return hidden


class Sight:
    """What the rows of one block see, for all layers of a forward: made when it is first asked for, then kept.

    position, rows: the block's; groups: query heads per key head; visible_from: first position that may be seen.
    """

    def __init__(self, position: int, rows: int, groups: int, device: torch.device, visible_from: int = 0) -> None:
        self._block, self._visible_from = (position, rows, groups, device), visible_from
        self._at: Tensor | None = None
        self._hidden: dict[tuple[int, int], Tensor] = {}

    @property
    def at(self) -> Tensor:
        """`row_positions`."""
        if self._at is None:
            self._at = row_positions(*self._block)
        return self._at

    def hidden(self, first: int, last: int) -> Tensor:
        """`hidden_keys` of these rows."""
        if (first, last) not in self._hidden:
            self._hidden[first, last] = hidden_keys(first, last, self.at, self._visible_from)
        return self._hidden[first, last]


def weigh(scores: Tensor) -> tuple[Tensor, Tensor]:
    """scores: [count, kv_heads, queries, keys], -inf where a key is hidden; overwritten with the weights.

    Returns (highest [kv_heads, queries, 1], sum of weights [kv_heads, queries, 1]).
    """
    highest = scores.amax((0, 3), keepdim=True)
    scores.sub_(highest.masked_fill(highest == -torch.inf, 0.0)).exp_()
    return highest[0], folded(scores.sum(-1, keepdim=True))


def folded(parts: Tensor) -> Tensor:
    """Sums the first dimension by folding halves onto each other. The halves are those of a power of two, so further
    parts that are zero (tiles that a row cannot see) change no bit of the sum."""
    width = 1 << (parts.shape[0] - 1).bit_length()
    while width > 1:
        width //= 2
        if parts.shape[0] > width:
            rest = parts.shape[0] - width
            parts = torch.cat((parts[:rest] + parts[width:], parts[rest:width]))
    return parts[0]
