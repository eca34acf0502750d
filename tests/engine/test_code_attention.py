"""Attention on codes against dense attention over what the codes say, and the bits of a row in any company."""

from __future__ import annotations

import pytest
import torch

from engine import code_attention
from engine.attention import attend
from engine.codecs.quantiser import Quantiser
from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache
from tests.engine.coded import DIM, HEADS, Rows, dense, drawn, expected, layout


def queries(rows: int, dim: int = DIM, seed: int = 9) -> torch.Tensor:
    return torch.randn(rows, 2 * HEADS, dim, generator=torch.Generator().manual_seed(seed))


def step(cache: CompressedCache, rows: Rows, q: torch.Tensor, position: int, real: int) -> torch.Tensor:
    """One forward's attention: `real` rows are written, the block is as tall as q."""
    rows.write(cache, position, position + real, clear=q.shape[0] - real)
    return attend(q, cache, position, position + q.shape[0])[:real]


@pytest.mark.parametrize("codec", SPECS)
@pytest.mark.parametrize("position", [0, 3, 57, 60, 64, 130, 250, 256, 510, 600])
def test_equals_dense_attention_over_the_decoded_cache(codec: str, position: int) -> None:
    """Every row sees what the rule shows it, at positions where the edge falls inside the block too."""
    rows = drawn(700, bias=3.0)
    cache = CompressedCache(layout(codec))
    rows.fill(cache, position)
    q = queries(8)
    out = step(cache, rows, q, position, 8)
    for index in range(8):
        wanted = expected(q[index], *dense(cache, rows, position + index))
        torch.testing.assert_close(out[index].double(), wanted, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("dim", [24, 80, 96, 128, 256])
@pytest.mark.parametrize("codec", ["k4v4", "k3v3", "k8v4"])
def test_every_head_size(codec: str, dim: int) -> None:
    rows = drawn(330, dim=dim)
    cache = CompressedCache(layout(codec, dim))
    rows.fill(cache, 318)
    q = queries(8, dim)
    out = step(cache, rows, q, 318, 8)
    for index in (0, 7):
        wanted = expected(q[index], *dense(cache, rows, 318 + index))
        torch.testing.assert_close(out[index].double(), wanted, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("position", [40, 63, 64, 66, 128, 255, 256, 320, 515])
def test_a_row_has_the_same_bits_wherever_it_stands(position: int) -> None:
    """Alone, behind right drafts, before wrong ones, on both sides of an edge."""
    rows, wrong = drawn(600), drawn(600, seed=5)
    row = queries(1)
    bits = []
    for index in range(8):
        for real in range(index + 1, 9):
            cache = CompressedCache(layout())
            start = position - index
            rows.fill(cache, start)
            mixed = Rows(rows.keys.clone(), rows.values.clone())
            mixed.keys[position + 1 :], mixed.values[position + 1 :] = (
                wrong.keys[position + 1 :],
                wrong.values[position + 1 :],
            )
            q = queries(8, seed=10 * index + real)
            q[index] = row[0]
            bits.append(step(cache, mixed, q, start, real)[index])
    assert all(torch.equal(b, bits[0]) for b in bits)


def test_tiles_in_groups_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many tiles are looked up together is a matter of speed alone."""
    rows = drawn(1400)
    cache = CompressedCache(layout())
    rows.fill(cache, 1300)
    q = queries(8)
    outs = []
    for chunk in (1, 2, 5):
        monkeypatch.setattr(code_attention, "CHUNK", chunk)
        outs.append(step(cache, rows, q, 1300, 8))
    assert all(torch.equal(out, outs[0]) for out in outs)
    for size in (8, 16, 1024):
        grouped = code_attention.attend_codes(q, cache, 1300, size)
        torch.testing.assert_close(grouped, outs[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("real", [1, 8])
def test_a_key_is_looked_up_once_for_all_rows_into_a_scratch_of_fixed_size(
    real: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a whole cache in full precision: that costs more than the codes save (SGLang #21419)."""
    rows = drawn(2100)
    cache = CompressedCache(layout())
    rows.fill(cache, 2060)
    seen: dict[str, list[int]] = {"keys": [], "values": []}
    read = code_attention._looked_up

    def noted(codec: Quantiser, codes: torch.Tensor, cache: CompressedCache) -> torch.Tensor:
        first = codes.storage_offset() // codes[0].numel()
        seen["keys" if codec is cache.layout.keys else "values"] += range(first, first + codes.shape[0])
        return read(codec, codes, cache)

    monkeypatch.setattr(code_attention, "_looked_up", noted)
    step(cache, rows, queries(8), 2060, real)
    assert seen == {"keys": list(range(8)), "values": list(range(8))}
    scratch = sum(t.numel() * t.element_size() for t in cache.layout.scratch.tensors())
    assert scratch == code_attention.CHUNK * HEADS * 256 * DIM * (4 + 2)


def test_prefill_rows_read_what_decode_rows_read() -> None:
    """One rule: a chunk of 128 rows has two edges inside, and its rows see what eight-row blocks see."""
    rows = drawn(400)
    chunk, decode = CompressedCache(layout()), CompressedCache(layout())
    rows.fill(chunk, 256)
    rows.fill(decode, 256)
    q = queries(128)
    out = step(chunk, rows, q, 256, 128)
    for start in range(0, 128, 8):
        part = step(decode, rows, q[start : start + 8], 256 + start, 8)
        decode.settle(264 + start)
        torch.testing.assert_close(out[start : start + 8], part, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("codec", SPECS)
def test_the_result_is_near_that_of_full_precision(codec: str) -> None:
    limit = {"k8v8": 0.03, "k8v4": 0.2, "k4v4": 0.3, "k4v2": 0.7, "k3v3": 0.55}[codec]
    rows = drawn(600, bias=2.0)
    cache = CompressedCache(layout(codec))
    rows.fill(cache, 570)
    q = queries(8)
    out = step(cache, rows, q, 570, 8).double()
    exact = torch.stack(
        [expected(q[i], *(x[: 571 + i].double().transpose(0, 1) for x in (rows.keys, rows.values))) for i in range(8)]
    )
    for half in (slice(0, DIM // 2), slice(DIM // 2, None)):
        ours, theirs = (x.view(8, -1, DIM)[..., half] for x in (out, exact))
        assert float((ours - theirs).norm() / theirs.norm()) < limit


def test_a_restricted_view_sees_only_its_block() -> None:
    """What the planted fault does: nothing before `visible_from` takes part."""
    rows, other = drawn(400), drawn(400, seed=3)
    outs = []
    for history in (rows, other):
        cache = CompressedCache(layout())
        history.fill(cache, 300)
        rows.write(cache, 300, 308)
        outs.append(attend(queries(8), cache, 300, 308, visible_from=300))
    assert torch.equal(outs[0], outs[1])
