"""A seal notices any changed byte of a committed block, and nothing else."""

from __future__ import annotations

import random

import pytest
import torch

from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache
from engine.seals import broken
from tests.engine.coded import HEADS, drawn, layout


def filled(codec: str = "k4v4", rows: int = 600) -> CompressedCache:
    cache = CompressedCache(layout(codec))
    drawn(rows).fill(cache, rows)
    return cache


def wrong(cache: CompressedCache) -> list[list[int]]:
    """[tile, head, block] of each that is not as it was sealed."""
    found: list[list[int]] = broken(cache.codes, cache.seals, 0, len(cache.seals), cache.coded).nonzero().tolist()
    return found


@pytest.mark.parametrize("codec", SPECS)
def test_committed_codes_fit_their_seals(codec: str) -> None:
    cache = filled(codec)
    assert wrong(cache) == []
    assert int((cache.seals != 0).sum()) == cache.coded // 64 * HEADS
    for other in (cache.clone(), cache.fork(530), cache.fork(128)):
        assert wrong(other) == []


def test_any_changed_byte_shows_in_its_block() -> None:
    rng = random.Random(1)
    for _ in range(60):
        cache = filled("k8v4")
        part = rng.choice(cache.codes)
        row, head = rng.randrange(cache.coded), rng.randrange(HEADS)
        stored = part[row // 256, head, row % 256].view(-1).view(torch.uint8)
        stored[rng.randrange(len(stored))] ^= rng.randrange(1, 256)
        assert wrong(cache) == [[row // 256, head, row % 256 // 64]]


def test_rows_that_changed_places_show() -> None:
    cache = filled()
    with torch.inference_mode():
        cache.key_codes[1, 0, [5, 9]] = cache.key_codes[1, 0, [9, 5]]
    assert wrong(cache) == [[1, 0, 0]]


def test_what_is_not_committed_is_not_judged() -> None:
    cache = filled(rows=330)
    assert cache.coded == 320
    with torch.inference_mode():
        cache.key_codes[1, :, 64:] ^= 1
    assert wrong(cache) == []


def test_what_is_written_again_after_a_rewind_is_sealed_again() -> None:
    cache, other = filled(rows=330), drawn(330, seed=7)
    cache.truncate(128)
    assert wrong(cache) == []
    for start in (128, 256):
        other.write(cache, start, min(start + 128, 330))
        cache.settle(min(start + 128, 330))
    assert wrong(cache) == []
    assert not torch.equal(cache.seals, filled(rows=330).seals)
