"""What is read once a cache has been cut, forked, frozen or damaged, by operators and by kernels: test_compressed.py
says what is stored then, this file that both ways of reading show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine.attention import attend
from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache
from engine.kernels.switch import Kernels
from tests.engine.coded import DIM, HEADS, dense, drawn, expected, layout
from tests.engine.readers import READERS, reader

ROWS, OTHER = drawn(220, bias=2.0), drawn(220, seed=1)
QUERIES = torch.randn(8, 2 * HEADS, DIM, generator=torch.Generator().manual_seed(9))
Read = Callable[[CompressedCache, int], torch.Tensor]


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Attention of eight rows that are written at a position, by one of the two ways and no other."""
    reader(request.param, monkeypatch)
    kernels = request.param == "triton"

    def refused(self: Kernels, why: str) -> None:
        raise RuntimeError(why)

    monkeypatch.setattr(Kernels, "switch_off", refused)

    def attended(cache: CompressedCache, position: int) -> torch.Tensor:
        assert cache.layout.kernels.on == kernels
        ROWS.write(cache, position, position + 8)
        return attend(QUERIES, cache, position, position + 8)

    return attended


def filled(end: int, codec: str = "k4v4") -> CompressedCache:
    cache = CompressedCache(layout(codec))
    ROWS.fill(cache, end)
    return cache


@pytest.mark.parametrize(
    "codec", [c if c in ("k4v4", "k3v3") else pytest.param(c, marks=pytest.mark.slow) for c in SPECS]
)
def test_rows_that_were_cut_away_are_not_read(codec: str, read: Read) -> None:
    """A rewind over an edge and another text behind it, then the first text again."""
    cache = filled(100, codec)
    for start in range(100, 140, 8):
        OTHER.write(cache, start, start + 8)
        cache.settle(start + 8)
    assert cache.coded == 128
    cache.truncate(100)
    for start in range(100, 132, 8):
        ROWS.write(cache, start, start + 8)
        cache.settle(start + 8)
    assert torch.equal(read(cache, 132), read(filled(132, codec), 132))


def test_rejected_codes_are_not_read(read: Read) -> None:
    """Drafts that were coded in advance, one of them broken, and rejected."""
    cache, fresh = filled(124), filled(124)
    broken = torch.full((8, HEADS, DIM), torch.nan)
    cache.write(124, broken, broken)
    cache.settle(124)
    out = read(cache, 124)
    assert out.isfinite().all()
    assert torch.equal(out, read(fresh, 124))
    for index in (0, 7):  # on both sides of the edge
        wanted = expected(QUERIES[index], *dense(cache, ROWS, 124 + index))
        torch.testing.assert_close(out[index].double(), wanted, atol=3e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
def test_a_committed_nan_is_read(read: Read) -> None:
    """A guard can only see what attention shows it. The interpreter's maximum warns; a device's does not."""
    keys = ROWS.keys.clone()
    keys[10, 0, 3] = torch.nan
    cache = CompressedCache(layout())
    for start in range(0, 80, 16):
        cache.write(start, keys[start : start + 16], ROWS.values[start : start + 16])
        cache.settle(start + 16)
    out = read(cache, 80).view(8, 2 * HEADS, DIM)
    assert out[:, :2].isnan().all(), "of the key head that is broken"
    assert out[:, 2:].isfinite().all()


def test_a_fork_reads_what_its_source_had_then(read: Read) -> None:
    cache = filled(132)
    fork = cache.fork(128)
    for start in range(132, 172, 8):
        OTHER.write(cache, start, start + 8)
        cache.settle(start + 8)
    assert torch.equal(read(fork, 128), read(filled(128), 128))


@pytest.mark.parametrize("frozen_at", [128, 140])
def test_a_frozen_cache_reads_codes_and_then_rows_as_computed(frozen_at: int, read: Read) -> None:
    """Level L1: what is coded stays so, what is not never will be."""
    cache = filled(frozen_at)
    cache.freeze()
    end = 204
    for start in range(frozen_at, end, 8):
        ROWS.write(cache, start, min(start + 8, end))
        cache.settle(min(start + 8, end))
    out = read(cache, end)
    assert cache.coded == 128
    for index in (0, 7):
        at = end + index
        keys, values = (x[: at + 1].double().transpose(0, 1).clone() for x in (ROWS.keys, ROWS.values))
        keys[:, :128], values[:, :128] = (x[:, :128] for x in dense(cache, ROWS, 128))
        wanted = expected(QUERIES[index], keys, values)
        torch.testing.assert_close(out[index].double(), wanted, atol=3e-5, rtol=1e-4)


def test_a_restricted_view_reads_nothing_before_it(read: Read) -> None:
    outs = []
    for history in (ROWS, OTHER):
        cache = CompressedCache(layout())
        history.fill(cache, 72)
        ROWS.write(cache, 72, 80)
        read(CompressedCache(layout()), 0)
        outs.append(attend(QUERIES, cache, 72, 80, visible_from=72))
    assert torch.equal(outs[0], outs[1])
