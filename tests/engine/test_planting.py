"""A planted fault strikes where it says and nowhere else; none changes nothing."""

from __future__ import annotations

import pytest
import torch

from engine.faults import Fault
from engine.kv import KVCache
from engine.model import Rows
from engine.planting import KEY_FACTOR, NAN_POSITION, Planted
from engine.sampler import SamplingParams

SAMPLED = SamplingParams(temperature=1.0)


def filled(rows: int = 300) -> KVCache:
    cache = KVCache(2, 8, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    draw = torch.randn(2, rows, 2, 8, generator=generator)
    cache.write(0, draw[0], draw[1])
    return cache


def rows(count: int) -> Rows:
    return Rows(torch.zeros(count, 4), torch.arange(count * 10.0).view(count, 10))


@pytest.mark.parametrize("fault", [None, *Fault])
def test_other_faults_leave_everything_as_it_is(fault: Fault | None) -> None:
    planted, cache, clean = Planted(fault), filled(), filled().committed(300)
    if fault is not Fault.TILE_LOST:
        planted.after_prefill([cache], 300)
        assert all(torch.equal(a, b) for a, b in zip(cache.committed(300), clean, strict=True))
    if fault is not Fault.KEYS_SCALED:
        cache = filled()
        planted.after_commit([cache], 300, 50, 0)
        assert all(torch.equal(a, b) for a, b in zip(cache.committed(300), clean, strict=True))
    if fault is not Fault.NAN_AT_POSITION:
        assert planted.in_rows(rows(3), NAN_POSITION).logits.isfinite().all()
    if fault is not Fault.ARGMAX_ACCEPTANCE:
        assert planted.judged(rows(3).logits, [1, 2], SAMPLED, 10) is None


def test_keys_of_the_decoded_rows_alone_grow() -> None:
    cache, clean = filled(), filled().committed(300)
    Planted(Fault.KEYS_SCALED).after_commit([cache], 260, 10, 0)
    keys, values = cache.committed(300)
    assert torch.equal(keys[:, 250:260], clean[0][:, 250:260] * KEY_FACTOR)
    assert torch.equal(values, clean[1])
    assert torch.equal(keys[:, :250], clean[0][:, :250])
    assert torch.equal(keys[:, 260:], clean[0][:, 260:])


def test_the_last_tile_of_the_prompt_is_lost_once() -> None:
    cache, clean = filled(), filled().committed(300)
    planted = Planted(Fault.TILE_LOST)
    planted.after_prefill([cache], 290)
    keys, values = cache.committed(300)
    assert torch.equal(keys, clean[0])
    assert not values[:, 256:290].any()
    assert torch.equal(values[:, :256], clean[1][:, :256])
    assert torch.equal(values[:, 290:], clean[1][:, 290:])
    healed = filled()
    planted.after_prefill([healed], 290)
    assert torch.equal(healed.committed(300)[1], clean[1])


def test_one_position_loses_its_numbers_once() -> None:
    planted = Planted(Fault.NAN_AT_POSITION)
    assert planted.in_rows(rows(3), NAN_POSITION - 3).logits.isfinite().all()
    planted.after_commit([], 100, 2, NAN_POSITION - 3)
    given = rows(3)
    struck = planted.in_rows(given, NAN_POSITION - 1)
    assert struck.logits.isnan().all(dim=1).tolist() == [False, True, False]
    assert given.logits.isfinite().all()
    assert planted.in_rows(rows(1), NAN_POSITION).logits.isnan().all()
    planted.after_commit([], 100, 2, NAN_POSITION - 1)
    assert planted.in_rows(rows(3), NAN_POSITION).logits.isfinite().all()


def test_drafts_are_judged_by_the_likeliest_token_where_tokens_are_drawn() -> None:
    planted = Planted(Fault.ARGMAX_ACCEPTANCE)
    assert planted.judged(rows(3).logits, [1, 2], SAMPLED, 10) == [9, 9, 9]
    assert planted.judged(rows(3).logits, [1, 2], SAMPLED, 7) == [6, 6, 6]
    assert planted.judged(rows(1).logits, [], SAMPLED, 10) is None
    assert planted.judged(rows(3).logits, [1, 2], SamplingParams(), 10) is None
