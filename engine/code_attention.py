"""Attention that reads codes: queries are rotated once, keys and values are looked up a few tiles at a time.

Must not: hold more than a chunk of looked-up values, or look a key up more than once per step.
Invariant: as in engine.attention: a row's bits depend on its own position and what was committed before it, not on its
index in the block, on the other rows, or on how far the cache extends. Source: 2504.19874; scores are
scale * <rotated query, levels>, values are summed in the rotated space and turned back once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.codecs.quantiser import Quantiser
from engine.codecs.spec import SINKS
from engine.compressed import CompressedCache
from engine.kv import TILE, KVCache
from engine.softmax import Parts, folded, hidden_keys, row_positions, spread_queries, weigh

CHUNK = 1
"""Tiles that are looked up together on a CPU: small enough for its cache, and a scratch that costs little."""
WIDE_CHUNK = 8
"""The same on other devices, where a launch costs more than a look-up."""


def attend_codes(q: Tensor, cache: CompressedCache, position: int, group_rows: int, visible_from: int = 0) -> Tensor:
    """`engine.attention.attend` for a compressed cache, right after the rows' own keys were written.

    group_rows: query rows times tiles whose scores are computed together.
    """
    rows = q.shape[0]
    query = spread_queries(q, cache.heads)
    at = row_positions(position, rows, query.shape[1] // rows, q.device)
    edges, size = cache.edges(at), max(group_rows // rows, 1)
    parts = _window_parts(query, cache, at, edges, visible_from)
    if cache.tail is not None:
        # rows that are no codes although they have left the window
        behind = -(-(position + rows - cache.coded) // TILE)
        hidden_below = max(visible_from - cache.coded, 0)
        for first in range(0, behind, size):
            last = min(first + size, behind)
            hidden = hidden_keys(first, last, at - cache.coded, hidden_below)
            parts = parts.and_then(raw_parts(query, cache.tail, first, last, hidden))
    if cache.pending:
        if cache.tally.wants_query:
            cache.tally.see_query(query)
        # what centring took from every key's score
        shift = (query * cache.mean[:, None]).sum(-1, keepdim=True)
        coded = cache.layout.kernels.read(query, shift, edges, cache, visible_from)
        if coded is None:
            coded = read_by_operators(query, shift, edges, cache, size, position, visible_from)
        parts = parts.and_then(coded)
    out = parts.output(rows)
    if cache.probe is not None:
        cache.probe(q, cache, position, out)
    return out


def read_by_operators(
    query: Tensor,
    shift: Tensor,
    edges: Tensor,
    cache: CompressedCache,
    size: int,
    position: int,
    visible_from: int = 0,
) -> Parts:
    """Softmax parts over all coded rows, `size` tiles at a time; the reference for kernels."""
    tiles = -(-cache.pending // TILE)
    turned = torch.matmul(query, cache.layout.keys.rotate)
    coded = _code_parts(turned, shift, cache, range(0, min(size, tiles)), edges, position, visible_from)
    for first in range(size, tiles, size):
        group = range(first, min(first + size, tiles))
        coded = coded.and_then(_code_parts(turned, shift, cache, group, edges, position, visible_from))
    return Parts(coded.highest, coded.total, torch.matmul(coded.mixed, cache.layout.values.rotate.T))


def raw_parts(query: Tensor, cache: KVCache, first: int, last: int, hidden: Tensor) -> Parts:
    """Softmax parts over the tiles first..last-1 of a full cache. hidden: of `hidden_keys`.

    One batch of equal products, a tile and a key head each, so that no product's shape depends on the context.
    """
    count, (kv_heads, queries, dim) = last - first, query.shape
    keys, values = (x.view(count * kv_heads, TILE, dim) for x in cache.tiles(first, last))
    spread = query.expand(count, kv_heads, queries, dim).reshape(count * kv_heads, queries, dim)
    scores = torch.bmm(spread, keys.transpose(1, 2)).view(count, kv_heads, queries, TILE)
    weights = scores.masked_fill_(hidden, -torch.inf)
    highest, total = weigh(weights)
    mixed = torch.bmm(weights.view(count * kv_heads, queries, TILE), values).view(count, kv_heads, queries, dim)
    return Parts(highest, total, folded(mixed))


def _window_parts(query: Tensor, cache: CompressedCache, at: Tensor, edges: Tensor, visible_from: int) -> Parts:
    """Softmax parts over what is raw: the newest rows, and the very first ones once they have left the window."""
    newest = cache.slot_positions()
    positions = torch.cat((torch.arange(SINKS, device=newest.device), newest))
    hidden = (positions < edges) | (positions > at)
    if cache.tail is not None:
        hidden[...] = True
    hidden[..., :SINKS] = positions[:SINKS] >= edges
    if visible_from:
        hidden |= positions < visible_from
    scores = torch.bmm(query, cache.raw_keys.float().transpose(1, 2))[None].masked_fill_(hidden, -torch.inf)
    highest, total = weigh(scores)
    return Parts(highest, total, torch.bmm(scores[0], cache.raw_values.float()))


def _code_parts(
    turned: Tensor,
    shift: Tensor,
    cache: CompressedCache,
    tiles: range,
    edges: Tensor,
    position: int,
    visible_from: int,
) -> Parts:
    """Softmax parts over some coded tiles; the weighted values are still rotated."""
    first, last = tiles.start, tiles.stop
    count, (kv_heads, queries, dim) = last - first, turned.shape
    size = CHUNK if turned.device.type == "cpu" else WIDE_CHUNK
    chunks = [(start, min(start + size, last)) for start in range(first, last, size)]
    scores = turned.new_empty(count, kv_heads, queries, TILE)
    for start, end in chunks:
        keys = _looked_up(cache.layout.keys, cache.key_codes[start:end], cache)
        spread = turned.expand(end - start, kv_heads, queries, dim).reshape(-1, queries, dim)
        torch.bmm(spread, keys.transpose(1, 2), out=scores[start - first : end - first].flatten(0, 1))
    torch.addcmul(shift, scores, cache.key_scale[first:last, :, None].float(), out=scores)
    # most tiles are visible to every row; where they are, hiding nothing would change no bit
    if first == 0 or last * TILE > cache.first_edge(position) or visible_from:
        seen = torch.arange(first * TILE, last * TILE, device=turned.device).view(count, 1, 1, TILE)
        hidden = (seen >= edges) | (seen < max(SINKS, visible_from))
        scores.masked_fill_(hidden, -torch.inf)
    highest, total = weigh(scores)
    scores.mul_(cache.value_scale[first:last, :, None].float())
    mixed = turned.new_empty(count, kv_heads, queries, dim)
    for start, end in chunks:
        values = _looked_up(cache.layout.values, cache.value_codes[start:end], cache)
        weights = scores[start - first : end - first].flatten(0, 1)
        torch.bmm(weights, values, out=mixed[start - first : end - first].flatten(0, 1))
    return Parts(highest, total, folded(mixed))


def _looked_up(codec: Quantiser, codes: Tensor, cache: CompressedCache) -> Tensor:
    """fp32 [tiles * kv_heads, 256, d] inside the scratch."""
    return codec.decode(codes, cache.layout.scratch).flatten(0, 1)
