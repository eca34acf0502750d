"""Attention on packed codes in Triton: codes are unpacked in registers, each once for all query rows of a step.

Must not: be imported where triton is not installed, add up with atomics, or choose a tile or split by how long the
context is.
Invariant: as in engine.code_attention: a row's bits depend on its own position and what was committed before it. Every
tile has one shape, splits lie at absolute positions and are merged in their order, and what a row cannot see adds an
exact zero to its sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from engine.codecs.packing import PER_CELL
from engine.codecs.quantiser import LloydMax, Quantiser
from engine.codecs.spec import FLUSH, SINKS
from engine.compressed import CompressedCache, Layout
from engine.kv import TILE
from engine.softmax import Parts

NEAR, FAR = 8192, 32_768
"""Where splits become longer. Their edges are a function of absolute position, so that no row's sums are cut otherwise
when the context grows; and a short context still has enough splits for all of a device's processors."""
SPLITS = (256, 1024, 2048)
"""Keys in a split below NEAR, below FAR, and from there on: 56 splits at 32k tokens, 104 at 128k."""
WIDE_SPLITS = (4096, 4096, 4096)
"""The same for a prefill chunk: its many query rows fill the device, and every split costs room for all of them."""
MERGED = 16
"""Splits that are added up together."""
PRECISION = "bf16x3"
"""Both sides of a product in two bfloat16 halves, three tensor-core products: about 16 bits, codes of 8 bits exact."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """queries, keys: of a tile; warps: that compute it."""

    queries: int
    keys: int
    warps: int


TILINGS = (Tiling(64, 32, 8), Tiling(32, 32, 8), Tiling(16, 32, 4))
"""From the most to the least shared memory; the first that a device has room for is taken, once for each shape."""


@triton.jit
def _looked_up(
    codes, table, rows, BITS: tl.constexpr, DIM: tl.constexpr, PER: tl.constexpr, CELLS: tl.constexpr, N: tl.constexpr
):
    """fp32 [N, PER * CELLS], a coordinate at plane * CELLS + cell; see engine.codecs.packing for the layout."""
    width: tl.constexpr = DIM * BITS // 8
    used: tl.constexpr = DIM // PER
    place = tl.arange(0, CELLS)
    at = codes + rows[:, None] * width
    if used == CELLS:
        cell = tl.load(at + place[None, :])
    else:
        cell = tl.load(at + place[None, :], mask=(place < used)[None, :], other=0)
    if BITS == 8:
        return cell.to(tl.float32)
    else:
        cell = cell.to(tl.int32)
        if BITS == 3:
            half: tl.constexpr = DIM // 8
            upper = tl.load(at + used + (place % half)[None, :], mask=(place < used)[None, :], other=0).to(tl.int32)
            cell = cell | ((upper >> (place // half * 4)[None, :]) & 15) << 8
        shifts = tl.arange(0, PER) * BITS
        code = (cell[:, None, :] >> shifts[None, :, None]) & ((1 << BITS) - 1)
        return tl.reshape(tl.load(table + code), (N, PER * CELLS))


@triton.jit
def _placed(DIM: tl.constexpr, PER: tl.constexpr, CELLS: tl.constexpr):
    """For each column of `_looked_up`: its coordinate, and whether it has one."""
    column = tl.arange(0, PER * CELLS)
    return column // CELLS * (DIM // PER) + column % CELLS, column % CELLS < DIM // PER


@triton.jit(do_not_specialize=["pending", "lowest", "splits"])
def attend_split(
    query,
    shift,
    edges,
    key_codes,
    key_scale,
    key_table,
    value_codes,
    value_scale,
    value_table,
    highest,
    total,
    mixed,
    pending,
    lowest,
    splits,
    HEADS: tl.constexpr,
    QUERIES: tl.constexpr,
    DIM: tl.constexpr,
    KEY_BITS: tl.constexpr,
    KEY_PER: tl.constexpr,
    KEY_CELLS: tl.constexpr,
    VALUE_BITS: tl.constexpr,
    VALUE_PER: tl.constexpr,
    VALUE_CELLS: tl.constexpr,
    TOKENS: tl.constexpr,
    NEAR: tl.constexpr,
    FAR: tl.constexpr,
    SHORT: tl.constexpr,
    MIDDLE: tl.constexpr,
    LONG: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Softmax parts of one split of the keys, one key head and M query rows."""
    # the longest splits are the last ones: they begin first
    split = splits - 1 - tl.program_id(0)
    head = tl.program_id(1)
    near: tl.constexpr = NEAR // SHORT
    far: tl.constexpr = near + (FAR - NEAR) // MIDDLE
    if split < near:
        start = split * SHORT
        end = start + SHORT
    elif split < far:
        start = NEAR + (split - near) * MIDDLE
        end = start + MIDDLE
    else:
        start = FAR + (split - far) * LONG
        end = start + LONG
    end = tl.minimum(end, pending)

    row = tl.program_id(2) * M + tl.arange(0, M)
    exists = row < QUERIES
    coordinate, real = _placed(DIM, KEY_PER, KEY_CELLS)
    at = (head * QUERIES + row)[:, None] * DIM + coordinate[None, :]
    q = tl.load(query + at, mask=exists[:, None] & real[None, :], other=0.0)
    constant = tl.load(shift + head * QUERIES + row, mask=exists, other=0.0)
    edge = tl.load(edges + row, mask=exists, other=0).to(tl.int32)

    top = tl.full((M,), float("-inf"), tl.float32)
    weight = tl.zeros((M,), tl.float32)
    summed = tl.zeros((M, VALUE_PER * VALUE_CELLS), tl.float32)
    inside = tl.arange(0, N)
    for first in range(start, end, N):
        seen = first + inside
        rows = (first // TOKENS * HEADS + head).to(tl.int64) * TOKENS + first % TOKENS + inside
        keys = _looked_up(key_codes, key_table, rows, KEY_BITS, DIM, KEY_PER, KEY_CELLS, N)
        scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION)
        scores = scores * tl.load(key_scale + rows).to(tl.float32)[None, :] + constant[:, None]
        shown = (seen[None, :] < edge[:, None]) & (seen >= lowest)[None, :]
        scores = tl.where(shown, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        keep = tl.exp(top - base)
        weights = tl.exp(scores - base[:, None])
        weight = weight * keep + tl.sum(weights, 1)
        values = _looked_up(value_codes, value_table, rows, VALUE_BITS, DIM, VALUE_PER, VALUE_CELLS, N)
        scaled = weights * tl.load(value_scale + rows).to(tl.float32)[None, :]
        summed = summed * keep[:, None] + tl.dot(scaled, values, input_precision=PRECISION)
        top = higher

    out = (split * HEADS + head).to(tl.int64) * QUERIES + row
    tl.store(highest + out, top, mask=exists)
    tl.store(total + out, weight, mask=exists)
    coordinate, real = _placed(DIM, VALUE_PER, VALUE_CELLS)
    tl.store(mixed + out[:, None] * DIM + coordinate[None, :], summed, mask=exists[:, None] & real[None, :])


@triton.jit(do_not_specialize=["splits"])
def merge_splits(
    highest,
    total,
    mixed,
    top_out,
    total_out,
    mixed_out,
    splits,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    S: tl.constexpr,
):
    """Softmax parts of all splits together, of one query row and key head; splits are added in their order."""
    row = tl.program_id(0)
    lane, column = tl.arange(0, S), tl.arange(0, COLUMNS)
    real = column < DIM
    top = tl.max(tl.full((S,), float("-inf"), tl.float32), 0)
    for first in range(0, splits, S):
        part = first + lane
        top = tl.maximum(top, tl.max(tl.load(highest + part * ROWS + row, part < splits, float("-inf")), 0))
    base = tl.where(top == float("-inf"), 0.0, top)
    weight = tl.sum(tl.zeros((S,), tl.float32), 0)
    summed = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, splits, S):
        part = first + lane
        at = part.to(tl.int64) * ROWS + row
        share = tl.exp(tl.load(highest + at, part < splits, float("-inf")) - base)
        weight += tl.sum(share * tl.load(total + at, part < splits, 0.0), 0)
        held = (part < splits)[:, None] & real[None, :]
        values = tl.load(mixed + at[:, None] * DIM + column[None, :], held, 0.0)
        summed += tl.sum(share[:, None] * values, 0)
    tl.store(top_out + row, top)
    tl.store(total_out + row, weight)
    tl.store(mixed_out + row.to(tl.int64) * DIM + column, summed, real)


__all__ = ["TILINGS", "OutOfResources", "Tiling", "code_parts", "sizes"]


def split_count(tokens: int, lengths: tuple[int, int, int]) -> int:
    """Splits of the first `tokens` keys, the last one perhaps not full."""
    count, start = 0, 0
    for end, length in zip((NEAR, FAR, tokens), lengths, strict=True):
        count += -(-max(min(tokens, end) - start, 0) // length)
        start = max(start, end)
    return count


def sizes(layout: Layout, queries: int, tiling: Tiling) -> dict[str, Any]:
    """What `attend_split` is compiled for: everything about a codec, a model and a number of query rows."""
    planes = {"KEY": layout.keys.bits, "VALUE": layout.values.bits}
    found: dict[str, Any] = {}
    for side, bits in planes.items():
        per = PER_CELL.get(bits, 1)
        # a tensor-core product sums at least 16 coordinates of bfloat16
        cells = max(triton.next_power_of_2(layout.dim // per), 16 // per)
        found |= {f"{side}_BITS": bits, f"{side}_PER": per, f"{side}_CELLS": cells}
    narrow = queries <= TILINGS[0].queries
    return found | {
        "HEADS": layout.heads,
        "QUERIES": queries,
        "DIM": layout.dim,
        "TOKENS": TILE,
        "NEAR": NEAR,
        "FAR": FAR,
        **dict(zip(("SHORT", "MIDDLE", "LONG"), SPLITS if narrow else WIDE_SPLITS, strict=True)),
        "M": tiling.queries,
        "N": tiling.keys,
        # the interpreter computes in fp32, and knows only names that every device has
        "PRECISION": "ieee" if triton.knobs.runtime.interpret else PRECISION,
    }


def _table(codec: Quantiser) -> Tensor:
    """fp32 levels; codes of 8 bits are numbers already, and what is handed over for them is not read."""
    return codec.levels if isinstance(codec, LloydMax) else codec.turn


def code_parts(
    turned: Tensor, shift: Tensor, edges: Tensor, cache: CompressedCache, visible_from: int, tiling: Tiling
) -> Parts:
    """Softmax parts over all coded rows; weighted values are still rotated.

    turned: fp32 [kv_heads, queries, d], queries after the keys' rotation; shift: fp32 [kv_heads, queries, 1], what
    centring took from every score; edges: int64 [1, 1, queries, 1]. Raises what the compiler or the driver raises.
    """
    kv_heads, queries, dim = turned.shape
    keys, values = cache.layout.keys, cache.layout.values
    constants = sizes(cache.layout, queries, tiling)
    splits = split_count(cache.pending, (constants["SHORT"], constants["MIDDLE"], constants["LONG"]))
    assert cache.pending % FLUSH == 0, "a tile of keys lies on one side of the end"
    assert FLUSH % tiling.keys == 0
    highest, total = turned.new_empty(2, splits, kv_heads, queries)
    mixed = turned.new_empty(splits, kv_heads, queries, dim)
    attend_split[(splits, kv_heads, triton.cdiv(queries, tiling.queries))](
        turned.contiguous(),
        shift.contiguous(),
        edges.contiguous(),
        cache.key_codes,
        cache.key_scale,
        _table(keys),
        cache.value_codes,
        cache.value_scale,
        _table(values),
        highest,
        total,
        mixed,
        cache.pending,
        max(SINKS, visible_from),
        splits,
        **constants,
        num_warps=tiling.warps,
        num_stages=1,
    )
    merged = Parts(
        turned.new_empty(kv_heads, queries, 1), turned.new_empty(kv_heads, queries, 1), torch.empty_like(turned)
    )
    merge_splits[(kv_heads * queries,)](
        highest,
        total,
        mixed,
        merged.highest,
        merged.total,
        merged.mixed,
        splits,
        ROWS=kv_heads * queries,
        DIM=dim,
        COLUMNS=triton.next_power_of_2(dim),
        S=MERGED,
        num_warps=4,
    )
    return merged
