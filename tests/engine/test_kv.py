"""The KV cache: tiles show what was written last, growth keeps content, what is cut off is zero."""

from __future__ import annotations

import pytest
import torch

from engine.kv import TILE, KVCache

CPU = torch.device("cpu")


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 4, generator=generator), torch.randn(count, 2, 4, generator=generator)


def test_tiles_show_what_was_written() -> None:
    cache = KVCache(2, 4, torch.float32, CPU)
    keys, values = rows(300)
    for start, end in ((0, 100), (100, 101), (101, 300)):
        cache.write(start, keys[start:end], values[start:end])
    seen = [tiles.transpose(0, 1).reshape(2, 512, 4)[:, :300] for tiles in cache.tiles(0, 2)]
    assert torch.equal(seen[0], keys.transpose(0, 1))
    assert torch.equal(seen[1], values.transpose(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(cache.committed(300), seen, strict=True))


def test_the_last_write_wins() -> None:
    cache = KVCache(2, 4, torch.float32, CPU)
    cache.write(0, *rows(20))
    newer = rows(5, seed=1)
    cache.write(10, *newer)
    assert torch.equal(cache.tiles(0, 1)[0][0, :, 10:15], newer[0].transpose(0, 1))


def test_rows_behind_a_short_block_are_cleared() -> None:
    cache = KVCache(2, 4, torch.float32, CPU)
    keys, values = rows(8)
    cache.write(0, keys.fill_(torch.nan), values.fill_(torch.nan))
    cache.write(0, *rows(3), clear=5)
    assert not cache.tiles(0, 1)[0].isnan().any()
    assert not cache.tiles(0, 1)[1].isnan().any()


def test_truncation_leaves_zeros_in_every_later_tile() -> None:
    cache = KVCache(2, 4, torch.float32, CPU)
    keys, values = rows(600)
    cache.write(0, keys, values)
    cache.truncate(10)
    assert torch.equal(cache.committed(10)[0], keys[:10].transpose(0, 1))
    assert not cache.keys[0, :, 10:].any()
    assert not cache.keys[1:].any()
    assert not cache.values[0, :, 10:].any()
    assert not cache.values[1:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes_and_types(dtype: torch.dtype) -> None:
    cache = KVCache(2, 4, dtype, CPU)
    assert cache.nbytes == 0
    keys, values = (x.to(dtype) for x in rows(TILE + 1))
    cache.write(0, keys, values)
    assert cache.capacity == 2 * TILE
    assert cache.nbytes == 2 * 2 * cache.capacity * 4 * dtype.itemsize
    assert cache.keys.dtype == dtype
    assert cache.tiles(0, 1)[0].dtype == torch.float32


def test_a_clone_is_independent() -> None:
    cache = KVCache(2, 4, torch.float32, CPU)
    cache.write(0, *rows(3))
    other = cache.clone()
    cache.truncate(0)
    assert other.tiles(0, 1)[0].any()
    assert other.codec == "full"
