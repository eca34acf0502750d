"""The compressed cache: what becomes codes and when, that rejected rows leave no trace, and what it weighs."""

from __future__ import annotations

import pytest
import torch

from engine.codecs.spec import FLUSH, SINKS, SPECS
from engine.compressed import CompressedCache, edge
from engine.errors import RewindError
from engine.kv import TILE
from tests.engine.coded import CPU, DIM, HEADS, WINDOW, dense, drawn, layout


def same(a: CompressedCache, b: CompressedCache, length: int) -> bool:
    pairs = zip(a.committed(length), b.committed(length), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("codec", SPECS)
@pytest.mark.parametrize("step", [1, 7, 64, 100, 128])
def test_codes_do_not_depend_on_how_rows_arrived(codec: str, step: int) -> None:
    rows = drawn(300)
    shared = layout(codec)
    once, cache = CompressedCache(shared), CompressedCache(shared)
    rows.fill(once, 300, step=120)
    rows.fill(cache, 300, step=step)
    assert cache.coded == once.coded == 256
    assert same(cache, once, 300)


def test_only_committed_rows_become_codes() -> None:
    """Drafts that cross the edge are coded in advance for the rows behind it, and forgotten when they are rejected."""
    rows, other = drawn(80), drawn(80, seed=1)
    cache, plain = CompressedCache(layout()), CompressedCache(layout())
    rows.fill(cache, 60)
    rows.fill(plain, 60)
    other.write(cache, 60, 68)
    assert (cache.coded, cache.pending) == (0, 64)
    assert cache.key_scale.any()
    cache.settle(61)
    assert (cache.coded, cache.pending) == (0, 0)
    assert not cache.key_scale.any(), "a masked NaN would still spread"
    rows.write(cache, 60, 66, clear=2)
    rows.write(plain, 60, 66, clear=2)
    cache.settle(66)
    plain.settle(66)
    assert cache.coded == FLUSH
    assert same(cache, plain, 66)


def test_rows_that_are_written_again_are_coded_again() -> None:
    """A step that is computed twice, as after an error: codes in advance of the first time are not kept."""
    rows, other = drawn(80), drawn(80, seed=1)
    cache, plain = CompressedCache(layout()), CompressedCache(layout())
    for both in (cache, plain):
        rows.fill(both, 60)
    other.write(cache, 60, 68)
    for both in (cache, plain):
        rows.write(both, 60, 68)
        both.settle(68)
    assert same(cache, plain, 68)


def test_a_rejected_nan_is_gone() -> None:
    rows = drawn(80)
    cache = CompressedCache(layout())
    rows.fill(cache, 60)
    broken = torch.full((8, HEADS, DIM), torch.nan)
    cache.write(60, broken, broken)
    cache.settle(60)
    rows.write(cache, 60, 61, clear=7)
    assert all(t.isfinite().all() for t in (cache.raw_keys, cache.raw_values, cache.key_scale, cache.value_scale))


def test_a_committed_nan_stays_visible() -> None:
    rows = drawn(80)
    rows.keys[10, 0, 3] = torch.nan
    cache = CompressedCache(layout())
    rows.fill(cache, 70)
    assert cache.key_scale[0, 0, 10].isnan()
    cache.truncate(0)
    assert not cache.key_scale.isnan().any()


@pytest.mark.parametrize("length", [0, 1, 3, 63, 64, 65, 128, 200, 255, 256, 257])
def test_cutting_back_and_writing_again_is_as_if_never_written(length: int) -> None:
    rows, other = drawn(300), drawn(300, seed=1)
    cache, plain = CompressedCache(layout()), CompressedCache(layout())
    rows.fill(cache, length, step=8)
    other.fill(plain, 0)
    for start in range(length, min(length + 40, 300), 8):
        other.write(cache, start, min(start + 8, 300))
        cache.settle(min(start + 8, 300))
    assert cache.restorable(length) == length
    cache.truncate(length)
    rows.fill(plain, length)
    assert same(cache, plain, length)
    for start in range(length, 296, 8):
        for both in (cache, plain):
            rows.write(both, start, start + 8)
            both.settle(start + 8)
    end = max(length, (296 - length) // 8 * 8 + length)
    assert same(cache, plain, end)


def test_what_has_left_the_window_cannot_be_cut_into() -> None:
    rows = drawn(400)
    cache = CompressedCache(layout())
    rows.fill(cache, 400)
    assert cache.oldest == 400 - WINDOW
    assert [cache.restorable(n) for n in (399, 330, 320, 319, 300, 256, 70, 10)] == [
        399,
        330,
        320,
        256,
        256,
        256,
        64,
        0,
    ]
    with pytest.raises(RewindError) as caught:
        cache.truncate(300)
    assert caught.value.nearest == 256
    with pytest.raises(RewindError):
        cache.fork(300)
    fork = cache.fork(256)
    fresh = CompressedCache(layout())
    rows.fill(fresh, 256)
    assert same(fork, fresh, 256)
    assert cache.coded == 384, "a fork leaves its source alone"


def test_a_clone_is_independent() -> None:
    rows = drawn(100)
    cache = CompressedCache(layout())
    rows.fill(cache, 100)
    other = cache.clone()
    cache.truncate(0)
    assert other.coded == 64
    assert other.key_codes.any()
    assert other.raw_keys.any()


def test_a_write_that_outruns_settling_is_an_error() -> None:
    rows = drawn(300)
    cache = CompressedCache(layout())
    with pytest.raises(RuntimeError, match="settle after every write"):
        for start in range(0, 300, 100):
            cache.write(start, rows.keys[start : start + 100], rows.values[start : start + 100])


def test_the_first_rows_stay_as_computed() -> None:
    rows = drawn(200)
    cache = CompressedCache(layout())
    rows.fill(cache, 200)
    assert torch.equal(cache.raw_keys[:, :SINKS], rows.keys[:SINKS].transpose(0, 1))
    assert torch.equal(cache.raw_values[:, :SINKS], rows.values[:SINKS].transpose(0, 1))


@pytest.mark.parametrize("codec", SPECS)
@pytest.mark.parametrize("dim", [24, 64, 80, 96, 128, 256])
def test_what_is_stored_is_close_to_what_was_written(codec: str, dim: int) -> None:
    """Every codec and head size, unbiased; each half of every vector for itself, so that a wrong half shows."""
    rows = drawn(200, dim=dim, bias=2.0)
    cache = CompressedCache(layout(codec, dim))
    rows.fill(cache, 200)
    keys, values = dense(cache, rows, 192)
    spec = SPECS[codec]
    limit = {2: 0.45, 3: 0.24, 4: 0.13, 8: 0.02}
    centred = rows.keys.double() - rows.keys[4:64].double().mean(0)
    for back, exact, written, bits in (
        (keys, rows.keys.double(), centred, spec.key_bits),
        (values, rows.values.double(), rows.values.double(), spec.value_bits),
    ):
        loss = back[:, 4:192] - exact[4:192].transpose(0, 1)
        for half in (slice(0, dim // 2), slice(dim // 2, None)):
            part = written[4:192].transpose(0, 1)[..., half]
            assert float(loss[..., half].norm() / part.norm()) < limit[bits]
        slope = (loss * written[4:192].transpose(0, 1)).sum() / written[4:192].square().sum()
        assert abs(float(slope)) < 0.003


def test_every_codec_stores_other_bytes() -> None:
    """A flag that is ignored gives two codecs the same numbers (LLMKube #601, quant.cpp #14)."""
    rows = drawn(100)
    stored = []
    for codec in SPECS:
        cache = CompressedCache(layout(codec))
        rows.fill(cache, 100)
        spec = SPECS[codec]
        assert cache.key_codes.shape[-1] * 8 == DIM * spec.key_bits
        assert cache.value_codes.shape[-1] * 8 == DIM * spec.value_bits
        stored.append(b"".join(x.contiguous().numpy().tobytes() for x in cache.committed(64)))
    assert len(set(stored)) == len(SPECS)


def test_a_biased_key_costs_no_precision() -> None:
    """||mean|| = 50 ||rest||: without centring the attention's error is that of noise fifty times as large."""
    plain, biased = drawn(300), drawn(300, bias=50.0)
    errors = []
    for rows in (plain, biased):
        cache = CompressedCache(layout())
        rows.fill(cache, 300)
        keys, _ = dense(cache, rows, 256)
        errors.append(float((keys[:, 4:256] - rows.keys[4:256].double().transpose(0, 1)).norm()))
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_bytes() -> None:
    cache = CompressedCache(layout())
    drawn(16, 0).fill(cache, 16)
    assert cache.nbytes == sum(t.numel() * t.element_size() for t in cache.tensors()[:-2])
    empty = cache.nbytes
    drawn(400, 0).fill(cache, 400)
    per_token = 2 * HEADS * (DIM // 2 + 2)
    seals = 8 * HEADS * TILE // 64
    assert cache.nbytes - empty == 2 * (TILE * per_token + seals)


def test_memory_at_16k_tokens_is_three_and_a_half_times_smaller() -> None:
    """Live bytes of one layer against `full` in bf16: codes, scales, raw rows, growth; and a step's scratch spread over
    the three layers of the embedded model, the fewest that any model has."""
    length = 16_384
    cache = CompressedCache(layout(dtype=torch.bfloat16))
    rows = drawn(128)
    for start in range(0, length, 128):
        cache.write(start, rows.keys.bfloat16(), rows.values.bfloat16())
        cache.settle(start + 128)
    scratch = 2 * 4 * HEADS * TILE * DIM  # of one tile: values, and cells of half as many elements, rounded up
    full = 2 * 2 * HEADS * DIM * length
    assert full / (cache.nbytes + scratch / 3) >= 3.5


def test_edges() -> None:
    assert [edge(n) for n in (0, 63, 64, 127, 128)] == [0, 0, 64, 64, 128]
    assert WINDOW % FLUSH == 0
    assert CPU.type == "cpu"
