"""KV cache of one attention layer whose committed rows are stored as codes, but for the newest and the very first ones.

Must not: code a row that is not committed, or decide by the present length what a row may see.
Invariant: `coded`, a multiple of FLUSH, counts the committed rows that exist as codes. A query row at position t reads
the keys below `t // FLUSH * FLUSH` as codes and those from there on as computed, in prefill, decode and verification
alike. Where that edge falls inside a step, later rows need codes of rows that the same step has computed: those are
coded in advance, count as `pending`, and are dropped unless `settle` says that they were committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.codecs.quantiser import BLOCK, Encoded, Quantiser, Scratch
from engine.codecs.spec import FLUSH, SINKS
from engine.errors import RewindError
from engine.health import CacheTally, Tally
from engine.kernels.switch import Kernels
from engine.kv import TILE, KVCache, grown, pieces
from engine.read_back import read_back
from engine.seals import BLOCKS, seal

GROWTH = 64
"""Codes grow by a 64th: doubling would waste what they save, and copying them is cheap."""
assert FLUSH == BLOCK, "a flush is one block of the quantiser"


@dataclass(frozen=True, slots=True)
class Layout:
    """What all compressed caches of a model and codec share. window: raw rows kept, at least FLUSH and the widest step.

    header: see engine.codecs.spec. kernels: what may read the codes instead of torch operators.
    """

    codec: str
    header: str
    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device
    window: int
    keys: Quantiser
    values: Quantiser
    scratch: Scratch
    kernels: Kernels = field(default_factory=Kernels)


class CompressedCache:
    """Codes: [tiles, kv_heads, 256, bytes], scales fp16 [tiles, kv_heads, 256]. raw_keys, raw_values: [kv_heads, SINKS
    + window, head_dim]; position p has slot SINKS + p % window, the first SINKS positions a slot of their own besides.

    mean: fp32 [kv_heads, head_dim], taken from keys before they are coded: the mean of the first FLUSH keys, sinks left
    out, so it depends on the prefix alone. A constant in all keys shifts a row's scores by a constant that is added
    back, so this is exact, and it keeps a bias (Qwen2's) from eating the codes' range.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        keys, values, heads, device = layout.keys, layout.values, layout.heads, layout.device
        self.key_codes = torch.zeros(0, heads, TILE, keys.width, dtype=keys.dtype, device=device)
        self.value_codes = torch.zeros(0, heads, TILE, values.width, dtype=values.dtype, device=device)
        self.key_scale = torch.zeros(0, heads, TILE, dtype=torch.float16, device=device)
        self.value_scale = torch.zeros_like(self.key_scale)
        self.raw_keys = torch.zeros(heads, SINKS + layout.window, layout.dim, dtype=layout.dtype, device=device)
        self.raw_values = torch.zeros_like(self.raw_keys)
        self.mean = torch.zeros(heads, layout.dim, device=device)
        self.tail: KVCache | None = None
        """Once quantising has stopped: all rows from `coded` on, as computed."""
        self.coded = self.pending = 0
        self.tally = CacheTally(Tally(keys.bits), Tally(values.bits))
        self._uncounted: list[tuple[Tensor, Encoded, Tensor, Encoded]] = []
        """Blocks that were coded in advance, in order; they count once they are committed."""
        self.seals = torch.zeros(0, heads, BLOCKS, dtype=torch.int64, device=device)
        """Of committed blocks, see engine.seals."""
        self.unread: list[tuple[int, int, Tensor]] = []
        """Read-backs that nobody has looked at: first row, rows, fp32 [keys and values, 2]."""
        self.probe: Callable[[Tensor, CompressedCache, int, Tensor], None] | None = None
        """Is shown each attention over this cache: queries, cache, first position, result. See engine.reading."""
        self.oldest = self.newest = 0
        """Rows oldest..newest-1 are in the window; those behind the last written one are zero."""

    @property
    def codec(self) -> str:
        return self.layout.codec

    @property
    def heads(self) -> int:
        return self.layout.heads

    @property
    def codes(self) -> tuple[Tensor, ...]:
        """All that is stored of coded rows: codes and scales of keys, then of values."""
        return self.key_codes, self.key_scale, self.value_codes, self.value_scale

    @property
    def nbytes(self) -> int:
        """Codes, scales, raw rows and mean; the scratch is shared and counted once per model."""
        return sum(t.numel() * t.element_size() for t in self._own())

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self._own(), *self.layout.scratch.tensors())

    @torch.inference_mode()
    def write(self, position: int, keys: Tensor, values: Tensor, clear: int = 0) -> None:
        """Stores rows [rows, heads, dim] from `position` on and zeroes `clear` rows behind them.

        Codes in advance what the written rows themselves have to read as codes.
        """
        rows = keys.shape[0]
        if self.tail is not None:
            self.tail.write(position - self.coded, keys, values, clear)
            return
        self._drop_pending(self.coded)
        slots = self._slots(position, position + rows)
        self.raw_keys[:, slots] = keys.transpose(0, 1)
        self.raw_values[:, slots] = values.transpose(0, 1)
        if position < SINKS:
            first = slice(position, min(position + rows, SINKS))
            self.raw_keys[:, first] = keys[: first.stop - position].transpose(0, 1)
            self.raw_values[:, first] = values[: first.stop - position].transpose(0, 1)
        if clear:
            # a rejected row may hold NaN
            behind = self._slots(position + rows, position + rows + clear)
            self.raw_keys[:, behind] = 0
            self.raw_values[:, behind] = 0
        self.newest = position + rows + clear
        self.oldest = max(self.oldest, self.newest - self.layout.window)
        self._code_up_to(edge(position + rows - 1))

    @torch.inference_mode()
    def settle(self, length: int) -> None:
        """The first `length` rows are committed: full blocks of them become codes for good."""
        if self.tail is not None:
            return
        self._code_up_to(edge(length))
        blocks = self._uncounted[: max(edge(length) - self.coded, 0) // FLUSH]
        for keys, coded_keys, values, coded_values in blocks:
            self.tally.keys.add(keys.square().sum(-1), coded_keys)
            self.tally.values.add(values.square().sum(-1), coded_values)
            self.tally.wants_query = True
        self._check_and_seal(blocks)
        self.coded = max(edge(length), self.coded)
        self._drop_pending(self.coded)

    def restorable(self, length: int) -> int:
        """Between two edges the raw rows since the last edge are needed."""
        if self.tail is not None:
            return length if length >= self.coded else edge(length)
        return length if edge(length) >= self.oldest else edge(length)

    @torch.inference_mode()
    def truncate(self, length: int) -> None:
        """Zeroes all rows from `length` on. Raises RewindError if that is not restorable."""
        if self.restorable(length) != length:
            raise RewindError(length, self.restorable(length))
        if self.tail is not None:
            self.tail.truncate(max(length - self.coded, 0))
            if length >= self.coded:
                return
        self.coded = min(self.coded, edge(length))
        self._drop_pending(self.coded)
        for stored in (self.key_codes, self.value_codes):
            stored[self.coded // TILE : self.coded // TILE + 1, :, self.coded % TILE :] = 0
            stored[self.coded // TILE + 1 :] = 0
        if not self.coded:
            self.mean.zero_()
        gone = self._slots(max(length, self.oldest), self.newest)
        for raw in (self.raw_keys, self.raw_values):
            raw[:, gone] = 0
            raw[:, min(length, SINKS) : SINKS] = 0
        self.newest, self.oldest = min(self.newest, length), min(self.oldest, length)

    def take_over(self, full: KVCache, length: int) -> None:
        """Codes the first `length` rows of a full cache, by the one way in which rows ever become codes."""
        keys, values = (rows.transpose(0, 1) for rows in full.committed(length))
        for start in range(0, length, FLUSH):
            self.write(start, keys[start : start + FLUSH], values[start : start + FLUSH])
            self.settle(min(start + FLUSH, length))

    @torch.inference_mode()
    def freeze(self) -> None:
        """Stops quantising: all rows that are not codes yet, and all to come, are kept as computed."""
        if self.tail is not None:
            return
        self._drop_pending(self.coded)
        self.tail = KVCache(self.heads, self.layout.dim, self.layout.dtype, self.layout.device)
        slots = self._slots(self.coded, max(self.newest, self.coded))
        self.tail.write(0, self.raw_keys[:, slots].transpose(0, 1), self.raw_values[:, slots].transpose(0, 1))

    def committed(self, length: int) -> tuple[Tensor, ...]:
        """Codes and scales of the first rows [heads, edge, ..], then mean, first rows and window as stored."""
        first, end = min(length, SINKS), min(edge(length), self.coded)
        raw = [r[:, :first] for r in (self.raw_keys, self.raw_values)]
        if self.tail is None:
            raw += [r[:, self._slots(end, length)] for r in (self.raw_keys, self.raw_values)]
        else:
            raw += self.tail.committed(length - end)
        return (*(c.transpose(0, 1).flatten(1, 2)[:, :end] for c in self.codes), self.mean, *raw)

    def edges(self, at: Tensor) -> Tensor:
        """For rows at the positions `at`: below it keys are codes, from it on they are raw."""
        edges = at // FLUSH * FLUSH
        return edges if self.tail is None else edges.clamp(max=self.coded)

    def first_edge(self, position: int) -> int:
        """The same for one row."""
        return edge(position) if self.tail is None else min(edge(position), self.coded)

    def slot_positions(self) -> Tensor:
        """The position that each window slot holds after the last write, int64 [window]; negative: none yet."""
        slots = torch.arange(self.layout.window, device=self.layout.device)
        return self.newest - 1 - (self.newest - 1 - slots) % self.layout.window

    def clone(self) -> CompressedCache:
        """An independent copy."""
        return self._copy(self.key_codes.shape[0])

    def fork(self, length: int) -> CompressedCache:
        """An independent cache that holds the first `length` rows. Raises RewindError if that is not restorable."""
        other = self._copy(-(-length // TILE))
        other.truncate(length)
        return other

    def _copy(self, tiles: int) -> CompressedCache:
        other = type(self).__new__(type(self))
        other.layout, other.mean = self.layout, self.mean.clone()
        other.raw_keys, other.raw_values = self.raw_keys.clone(), self.raw_values.clone()
        other.key_codes, other.value_codes = self.key_codes[:tiles].clone(), self.value_codes[:tiles].clone()
        other.key_scale, other.value_scale = self.key_scale[:tiles].clone(), self.value_scale[:tiles].clone()
        capacity = other.key_codes.shape[0] * TILE
        other.coded, other.pending = min(self.coded, capacity), min(self.pending, capacity)
        other.oldest, other.newest = self.oldest, self.newest
        other.tally, other._uncounted = CacheTally(Tally(self.layout.keys.bits), Tally(self.layout.values.bits)), []
        other.seals, other.unread, other.probe = self.seals[:tiles].clone(), list(self.unread), None
        other.tail = self.tail.clone() if self.tail is not None else None
        return other

    def _own(self) -> tuple[Tensor, ...]:
        tail = self.tail.tensors() if self.tail is not None else ()
        return (*self.codes, self.seals, self.raw_keys, self.raw_values, self.mean, *tail)

    def _slots(self, start: int, end: int) -> Tensor:
        return SINKS + torch.arange(start, end, device=self.layout.device) % self.layout.window

    def _code_up_to(self, end: int) -> None:
        for start in range(self.pending, end, FLUSH):
            if start < self.oldest:
                raise RuntimeError(f"row {start} was overwritten before it was coded; settle after every write")
            self._code(start)
            self.pending = start + FLUSH

    def _code(self, start: int) -> None:
        """Codes the rows start..start+FLUSH-1 of the window."""
        if start + FLUSH > self.key_codes.shape[0] * TILE:
            self.reserve(start + FLUSH + self.key_codes.shape[0] // GROWTH * TILE)
        slots = self._slots(start, start + FLUSH)
        keys, values = (raw[:, slots].transpose(0, 1).float() for raw in (self.raw_keys, self.raw_values))
        if start == 0:
            self.mean = keys[SINKS:].mean(0)
        ((tile, at),) = pieces(start, start + FLUSH)
        keys = keys - self.mean
        coded_keys, coded_values = self.layout.keys.encode_block(keys), self.layout.values.encode_block(values)
        self._store(coded_keys, self.key_codes, self.key_scale, tile, at)
        self._store(coded_values, self.value_codes, self.value_scale, tile, at)
        self._uncounted.append((keys, coded_keys, values, coded_values))

    def _store(self, rows: Encoded, codes: Tensor, scale: Tensor, tile: int, at: slice) -> None:
        codes[tile, :, at] = rows.codes.transpose(0, 1)
        scale[tile, :, at] = rows.scale.T

    def _check_and_seal(self, blocks: list[tuple[Tensor, Encoded, Tensor, Encoded]]) -> None:
        """The blocks from `coded` on are committed: they must read as what was written, and are sealed."""
        at, layout = 0, self.layout
        for tile, rows in pieces(self.coded, self.coded + len(blocks) * FLUSH):
            count = (rows.stop - rows.start) // FLUSH
            here, at = blocks[at : at + count], at + count
            sides = (
                (layout.keys, self.key_codes, self.key_scale, torch.cat([block[0] for block in here])),
                (layout.values, self.value_codes, self.value_scale, torch.cat([block[2] for block in here])),
            )
            found = [
                read_back(codec, codes[tile, :, rows], scale[tile, :, rows], written, layout.scratch)
                for codec, codes, scale, written in sides
            ]
            self.unread.append((tile * TILE + rows.start, count * FLUSH, torch.stack(found)))
            sealed = slice(rows.start // FLUSH, rows.stop // FLUSH)
            self.seals[tile, :, sealed] = seal(self.codes, tile, tile + 1)[0, :, sealed]

    def _drop_pending(self, keep: int) -> None:
        """Of codes in advance nothing counts; their scales become zero, because a masked NaN would still spread."""
        for tile, at in pieces(keep, max(self.pending, keep)):
            self.key_scale[tile, :, at] = 0
            self.value_scale[tile, :, at] = 0
        self.pending, self._uncounted = keep, []

    @torch.inference_mode()
    def reserve(self, size: int) -> None:
        """Makes room for the codes of `size` rows."""
        tiles = -(-size // TILE)
        if tiles > self.key_codes.shape[0]:
            self.key_codes, self.value_codes = grown(self.key_codes, tiles), grown(self.value_codes, tiles)
            self.key_scale, self.value_scale = grown(self.key_scale, tiles), grown(self.value_scale, tiles)
            self.seals = grown(self.seals, tiles)


def edge(position: int) -> int:
    """Keys below it are codes to a query row at `position`."""
    return position // FLUSH * FLUSH


Cache = KVCache | CompressedCache
"""What an attention layer may read: the same methods, told apart where they are read."""
