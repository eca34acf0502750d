"""The second reading agrees with attention to the last digits, wherever the edge lies, and sees what a reader drops."""

from __future__ import annotations

import pytest
import torch

from engine import code_attention
from engine.attention import attend
from engine.codecs.quantiser import Quantiser
from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache
from engine.reading import READING_OFF, Probe, attended
from tests.engine.coded import DIM, HEADS, dense, drawn, expected, layout


def probed(cache: CompressedCache, position: int, head: int | None = None, rows: int = 8) -> float:
    probe = Probe(head)
    cache.probe = probe.see
    q = torch.randn(rows, 2 * HEADS, DIM, generator=torch.Generator().manual_seed(position))
    attend(q, cache, position, position + rows)
    cache.probe = None
    assert probe.off is not None
    return float(probe.off)


@pytest.mark.parametrize("position", [0, 3, 4, 63, 64, 70, 130, 319, 320, 600, 1100])
@pytest.mark.parametrize("codec", SPECS)
def test_both_readings_agree(codec: str, position: int) -> None:
    rows, cache = drawn(position + 8, bias=2.0), CompressedCache(layout(codec))
    rows.fill(cache, position)
    rows.write(cache, position, position + 1, clear=7)
    assert probed(cache, position) < READING_OFF / 100


def test_it_is_the_documented_rule_that_is_read() -> None:
    rows, cache = drawn(278), CompressedCache(layout("k3v3"))
    rows.fill(cache, 270)
    rows.write(cache, 270, 271, clear=7)
    q = torch.randn(2 * HEADS, DIM, generator=torch.Generator().manual_seed(3))
    wanted = expected(q, *dense(cache, rows, 270)).view(2 * HEADS, DIM)
    for head in range(HEADS):
        at = slice(2 * head, 2 * head + 2)
        out, size = attended(q[at], cache, head, 270)
        torch.testing.assert_close(out.double(), wanted[at], atol=3e-5, rtol=1e-4)
        assert bool((size >= out.norm(dim=-1) * 0.999).all())


def test_a_cache_that_has_stopped_quantising_is_read_too() -> None:
    rows, cache = drawn(420), CompressedCache(layout())
    rows.fill(cache, 300)
    cache.freeze()
    for at in range(300, 410):
        rows.write(cache, at, at + 1, clear=7)
        cache.settle(at + 1)
    rows.write(cache, 410, 411, clear=7)
    assert probed(cache, 410) < READING_OFF / 100


def test_a_reader_that_drops_half_of_every_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    read = code_attention._looked_up

    def halved(codec: Quantiser, codes: torch.Tensor, cache: CompressedCache) -> torch.Tensor:
        values = read(codec, codes, cache)
        if codec is cache.layout.values:
            values[..., values.shape[-1] // 2 :] = 0
        return values

    monkeypatch.setattr(code_attention, "_looked_up", halved)
    rows, cache = drawn(300), CompressedCache(layout())
    rows.fill(cache, 270)
    rows.write(cache, 270, 271, clear=7)
    for head in (None, *range(HEADS)):
        assert probed(cache, 270, head) > 20 * READING_OFF


def test_a_row_that_sees_no_context_is_seen() -> None:
    rows, cache = drawn(300), CompressedCache(layout())
    rows.fill(cache, 270)
    rows.write(cache, 270, 278)
    probe = Probe()
    cache.probe = probe.see
    attend(torch.randn(8, 2 * HEADS, DIM), cache, 270, 278, visible_from=270)
    assert probe.off is not None
    assert float(probe.off) > 20 * READING_OFF


def test_numbers_that_are_none_are_no_agreement() -> None:
    rows, cache = drawn(100), CompressedCache(layout())
    rows.fill(cache, 80)
    rows.write(cache, 80, 81, clear=7)
    with torch.inference_mode():
        cache.value_scale[0, 1, 30] = torch.nan
    assert not probed(cache, 80) <= READING_OFF
