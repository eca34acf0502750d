"""Each planted codec fault does to stored or read codes what it says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine.compressed import CompressedCache
from engine.faults import Fault
from engine.planted_codecs import DAMAGED_SHARE, SCALE_FACTOR, coded_caches, damage
from tests.engine.coded import dense, drawn, layout

CODEC_FAULTS = (Fault.KEYS_UNROTATED, Fault.CODES_SCALED, Fault.VALUES_HALVED)


def filled(make: Callable[..., CompressedCache], codec: str = "k4v4", rows: int = 330) -> CompressedCache:
    cache = make(layout(codec))
    drawn(rows).fill(cache, rows)
    return cache


@pytest.mark.parametrize("fault", [None, *(f for f in Fault if f not in CODEC_FAULTS)])
def test_other_faults_make_sound_caches(fault: Fault | None) -> None:
    assert coded_caches(fault) is CompressedCache


@pytest.mark.parametrize("codec", ["k4v4", "k8v4", "k3v3"])
def test_keys_are_stored_as_they_came(codec: str) -> None:
    sound, faulty = filled(CompressedCache, codec), filled(coded_caches(Fault.KEYS_UNROTATED), codec)
    assert torch.equal(sound.value_codes, faulty.value_codes)
    rows = drawn(330)
    keys, _ = dense(faulty, rows, 320)
    mean = rows.keys[4:64].double().mean(0)[:, None]
    # what a reader gets is the key turned once more
    turned = (keys[:, 4:320] - mean) @ faulty.layout.keys.turn.double()
    written = rows.keys[4:320].double().transpose(0, 1) - mean
    assert float((turned - written).norm() / written.norm()) < 0.3
    assert float((keys[:, 4:320] - mean - written).norm() / written.norm()) > 0.9


@pytest.mark.parametrize("codec", ["k4v4", "k8v4"])
def test_scales_of_keys_grow(codec: str) -> None:
    sound, faulty = filled(CompressedCache, codec), filled(coded_caches(Fault.CODES_SCALED), codec)
    assert torch.equal(sound.key_codes, faulty.key_codes)
    assert torch.equal(sound.value_scale, faulty.value_scale)
    ratio = (faulty.key_scale.float() / sound.key_scale.float())[sound.key_scale > 0]
    torch.testing.assert_close(ratio, torch.full_like(ratio, SCALE_FACTOR), rtol=2e-3, atol=0)


def test_values_are_halved_behind_a_single_row_alone() -> None:
    sound, faulty = filled(CompressedCache), filled(coded_caches(Fault.VALUES_HALVED))
    assert all(torch.equal(a, b) for a, b in zip(sound.committed(330), faulty.committed(330), strict=True))
    rows, whole = drawn(340), {}
    for count in (1, 2):
        for cache in (sound, faulty):
            rows.write(cache, 330, 330 + count, clear=8 - count)
            codec, codes = cache.layout.values, cache.value_codes[:1].contiguous()
            whole[cache is faulty, count] = codec.decode(codes, cache.layout.scratch).clone()
    half = whole[False, 1].shape[-1] // 2
    assert torch.equal(whole[True, 2], whole[False, 2])
    assert torch.equal(whole[True, 1][..., :half], whole[False, 1][..., :half])
    assert not whole[True, 1][..., half:].any()


def test_a_clone_has_the_fault_too() -> None:
    for fault in CODEC_FAULTS:
        cache = filled(coded_caches(fault))
        for other in (cache.clone(), cache.fork(300)):
            assert type(other) is type(cache)
            assert other.layout is cache.layout


def test_committed_codes_are_overwritten() -> None:
    sound, cache = filled(CompressedCache, "k8v4"), filled(CompressedCache, "k8v4")
    assert damage([object(), cache])
    assert not damage([object(), CompressedCache(layout())])
    for stored, before in ((cache.key_codes, sound.key_codes), (cache.value_codes, sound.value_codes)):
        differs = stored.view(torch.uint8) != before.view(torch.uint8)
        inside = differs.transpose(0, 1).flatten(1, 2)[:, : cache.coded]
        assert float(inside.float().mean()) == pytest.approx(DAMAGED_SHARE, abs=0.005)
        assert int(differs.sum()) == int(inside.sum()), "rows that are no codes yet are left alone"
    assert torch.equal(cache.key_scale, sound.key_scale)
