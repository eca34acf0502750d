"""Health figures are the expected ones on sound data, and name what is wrong on broken data."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.attention import attend
from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache
from engine.health import LEAST_COSINE, LayerHealth
from engine.model import Model
from tests.engine.coded import DIM, HEADS, Rows, drawn, layout
from tests.engine.test_lossless import ids

EXPECTED = {2: 0.884, 3: 0.969, 4: 0.9908, 8: 0.9999}


def filled(rows: Rows, codec: str = "k4v4", end: int = 600) -> CompressedCache:
    cache = CompressedCache(layout(codec))
    rows.fill(cache, end)
    return cache


def health_of(cache: CompressedCache) -> LayerHealth:
    return cache.tally.health(3, cache.codec, DIM)


@pytest.mark.parametrize("codec", SPECS)
def test_sound_data_has_the_expected_figures(codec: str) -> None:
    health = health_of(filled(drawn(600), codec))
    for side, bits in ((health.keys, SPECS[codec].key_bits), (health.values, SPECS[codec].value_bits)):
        assert (side.bits, side.vectors, side.broken, side.empty) == (bits, 576 * HEADS, 0, 0)
        assert side.cosine == pytest.approx(EXPECTED[bits], abs=0.004)
        assert LEAST_COSINE[bits] < side.cosine
        assert side.lowest < side.cosine
        if bits in (2, 4):
            assert side.entropy == pytest.approx({2: 1.911, 4: 3.765}[bits], abs=0.02)
    assert health.warnings == ()


def test_only_committed_rows_count_and_each_once() -> None:
    rows, other = drawn(200), drawn(200, seed=4)
    cache = filled(rows, end=60)
    for _ in range(3):
        other.write(cache, 60, 68)
        cache.settle(60)
    assert cache.tally.keys.vectors == 0
    rows.write(cache, 60, 68)
    cache.settle(66)
    assert cache.tally.keys.vectors == 64 * HEADS
    assert filled(drawn(128), end=128).clone().tally.keys.vectors == 0


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_predicted_score_noise_is_what_scores_show(size: float) -> None:
    rows = drawn(600)
    cache = filled(rows, end=512)
    q = torch.randn(8, 2 * HEADS, DIM, generator=torch.Generator().manual_seed(1)) * size
    cache.tally.wants_query = True
    rows.write(cache, 512, 520)
    attend(q, cache, 512, 520)
    sigma = health_of(cache).sigma
    assert sigma is not None
    codec = cache.layout.keys
    codes = cache.key_codes[:2].transpose(0, 1).flatten(1, 2).contiguous()
    scale = cache.key_scale[:2].transpose(0, 1).flatten(1, 2).float()
    back = (codec.decode(codes, cache.layout.scratch) * scale[..., None]) @ codec.rotate.T + cache.mean[:, None]
    error = (back - rows.keys[:512].transpose(0, 1)).repeat_interleave(2, 0)
    measured = float(torch.einsum("rhd,htd->hrt", q, error).std()) / math.sqrt(DIM)
    assert sigma == pytest.approx(measured, rel=0.1)
    noisy = replace(health_of(cache), sigma=0.6)
    assert noisy.warnings == ("layer 3: score noise 0.60; keep its keys in 8 bits",)


def test_broken_and_empty_vectors_are_counted_and_named() -> None:
    rows = drawn(200)
    rows.keys[80, 0, 5] = torch.nan
    rows.values[20:23] = 0
    health = health_of(filled(rows, end=150))
    assert (health.keys.broken, health.values.broken) == (1, 0)
    assert (health.keys.empty, health.values.empty) == (0, 3 * HEADS)
    assert health.warnings == ("layer 3: 1 keys are not finite",)


def test_a_failed_rotation_shows() -> None:
    """An outlier channel that nobody rotates away: most codes are those around zero, and the cosine drops."""
    rows = drawn(200)
    rows.keys[..., 7] *= 15
    sound = health_of(filled(rows, end=150))
    cache = CompressedCache(layout())
    cache.layout.keys.turn = torch.eye(DIM)  # type: ignore[attr-defined]
    rows.fill(cache, 150)
    health = health_of(cache)
    assert sound.warnings == ()
    assert health.keys.cosine < LEAST_COSINE[4]
    assert health.warnings[0].startswith("layer 3: keys are coded badly")
    assert health.keys.entropy is not None
    assert sound.keys.entropy is not None
    assert health.keys.entropy < sound.keys.entropy - 0.3


def test_a_model_reports_every_compressed_layer(tiny_folder: Path) -> None:
    model = Model.load(tiny_folder)
    state = model.new_state("k8v4")
    assert [h.keys.vectors for h in state.health()] == [0, 0]
    model.prefill(state, ids(200))
    model.decode(state, [1])
    found = state.health()
    assert [(h.layer, h.codec, h.keys.vectors) for h in found] == [(0, "k8v4", 384), (1, "k8v4", 384)]
    assert all(h.sigma is not None and h.sigma < 0.1 for h in found)
    assert model.new_state().health() == []
