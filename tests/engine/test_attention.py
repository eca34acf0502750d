"""Tiled attention against torch's own, and the bits of a row in any company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from engine.attention import attend
from engine.kv import KVCache

HEADS, KV_HEADS, DIM = 4, 2, 16


def filled(count: int, seed: int = 0) -> KVCache:
    generator = torch.Generator().manual_seed(seed)
    cache = KVCache(KV_HEADS, DIM, torch.float32, torch.device("cpu"))
    draw = [torch.randn(count, KV_HEADS, DIM, generator=generator) * 2 for _ in range(2)]
    cache.write(0, draw[0], draw[1])
    return cache


def queries(rows: int) -> torch.Tensor:
    return torch.randn(rows, HEADS, DIM, generator=torch.Generator().manual_seed(9))


def expected(q: torch.Tensor, cache: KVCache, position: int, first: int = 0) -> torch.Tensor:
    rows = q.shape[0]
    end = position + rows
    keys, values = (x.repeat_interleave(HEADS // KV_HEADS, 0) for x in cache.committed(end))
    at = torch.arange(end)
    mask = (at <= torch.arange(position, end)[:, None]) & (at >= first)
    out = F.scaled_dot_product_attention(q.transpose(0, 1), keys, values, attn_mask=mask)
    return out.transpose(0, 1).reshape(rows, -1)


@pytest.mark.parametrize("position", [0, 1, 250, 255, 256, 600])
def test_equals_plain_softmax_attention(position: int) -> None:
    cache, q = filled(700), queries(8)
    torch.testing.assert_close(attend(q, cache, position, position + 8), expected(q, cache, position))


@pytest.mark.parametrize("position", [5, 254, 256, 511])
def test_a_row_has_the_same_bits_wherever_it_stands(position: int) -> None:
    """The row of one absolute position, at every index of a block whose other rows differ."""
    cache = filled(700)
    row = queries(1)
    bits = []
    for index in range(8):
        if position < index:
            continue
        q = torch.randn(8, HEADS, DIM)
        q[index] = row[0]
        start = position - index
        bits.append(attend(q, cache, start, start + 8)[index])
    assert len(bits) >= 6
    assert all(torch.equal(b, bits[0]) for b in bits)


def test_how_far_the_cache_extends_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles behind a row, in its group and in later ones, are exact no-ops."""
    monkeypatch.setattr("engine.attention.SCRATCH_ROWS", 32)
    cache, q = filled(3000), queries(8)
    for position in (0, 250, 700, 1016, 1030):
        bits = [attend(q, cache, position, end) for end in range(position + 8, 3000, 190)]
        assert all(torch.equal(b, bits[0]) for b in bits)
        torch.testing.assert_close(bits[0], expected(q, cache, position))


def test_large_scores_do_not_overflow() -> None:
    cache, q = filled(300), queries(4) * 1e4
    out = attend(q, cache, 290, 294)
    assert out.isfinite().all()
    torch.testing.assert_close(out, expected(q, cache, 290))


def test_a_restricted_view_sees_only_its_block() -> None:
    """What the planted fault does: nothing before `visible_from` takes part."""
    cache, q = filled(400), queries(4)
    torch.testing.assert_close(attend(q, cache, 300, 304, visible_from=300), expected(q, cache, 300, first=300))
    other = filled(400, seed=7)
    own = cache.committed(304)
    other.write(300, own[0][:, 300:].transpose(0, 1), own[1][:, 300:].transpose(0, 1))
    assert torch.equal(attend(q, cache, 300, 304, 300), attend(q, other, 300, 304, 300))
