"""The numbers of a draw are those of the distribution that the sampler draws from, alone and beside drafts."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch

from engine.drawn import Draw, draw_numbers
from engine.penalties import Penalties
from engine.sampler import SamplingParams, choose

VOCAB = 40


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.6, top_k=7),
        SamplingParams(temperature=1.3, top_p=0.8),
        SamplingParams(temperature=0.8, top_k=20, top_p=0.95, min_p=0.05),
        SamplingParams(temperature=1.0, presence_penalty=1.5, repetition_penalty=1.2),
    ],
)
def test_numbers_are_those_of_many_draws(params: SamplingParams) -> None:
    """Against the frequencies of 4,000 seeds: what is said of the distribution is what the sampler does."""
    row = logits(1, seed=3)
    penalties = Penalties(params, VOCAB, [1, 2, 3, 4], row.device)
    adjusted = penalties.adjust(row, [])
    draft = int(row.argmax())
    count = 4000
    many = None if adjusted is None else adjusted.expand(count, -1)
    found = choose(row.expand(count, -1), range(count), params, VOCAB, many, 0, None, [draft] * count)
    entropy, variance = found.drawn[0].entropy, found.drawn[0].variance  # type: ignore[union-attr]
    told = torch.tensor([each.logprob for each in found.drawn if each is not None])
    assert len(told) == count
    assert len({found.expected[i] for i in range(count)}) == 1
    hits = sum(token == draft for token in found.ids) / count
    expected = found.expected[0]
    assert expected is not None
    assert abs(hits - expected) < 4 * math.sqrt(0.25 / count)
    # nll minus entropy: mean 0, variance as told
    assert abs(float(-told.mean()) - entropy) < 4 * math.sqrt(max(variance, 1e-9) / count)
    assert float(told.var()) == pytest.approx(variance, rel=0.15, abs=1e-6)
    assert sum(math.exp(lp) for lp in {t: float(lp) for t, lp in zip(found.ids, told, strict=True)}.values()) <= 1.001


def test_a_row_has_the_same_numbers_alone_and_beside_drafts() -> None:
    rows, params = logits(4), SamplingParams(temperature=0.9, top_p=0.9, seed=5)
    together = choose(rows, range(10, 14), params, VOCAB, drafts=[1, 2, 3])
    for index in range(4):
        alone = choose(rows[index : index + 1], [10 + index], params, VOCAB, drafts=[])
        ours, theirs = alone.drawn[0], together.drawn[index]
        assert ours is not None
        assert theirs is not None
        assert astuple(ours) == pytest.approx(astuple(theirs), rel=1e-12)
        assert alone.expected == [None]
    assert [each is None for each in together.expected] == [False, False, False, True]


def test_nothing_is_told_where_nothing_is_drawn_or_asked() -> None:
    rows = logits(2)
    assert choose(rows, range(2), SamplingParams(), VOCAB, drafts=[1]).drawn == [None, None]
    assert choose(rows, range(2), SamplingParams(temperature=1.0, top_k=1), VOCAB, drafts=[1]).expected == [None, None]
    assert choose(rows, range(2), SamplingParams(temperature=1.0), VOCAB).drawn == [None, None]


def test_a_draft_that_the_filters_leave_out_is_impossible() -> None:
    rows, params = logits(1), SamplingParams(temperature=1.0, top_k=3)
    worst = int(rows.argmin())
    assert choose(rows, [0], params, VOCAB, drafts=[worst]).expected == [0.0]
    found = choose(rows, [0], params, VOCAB, taken=[worst], drafts=[])
    assert found.drawn[0] is not None
    assert found.drawn[0].logprob < -600


def test_rows_without_numbers_stay_finite() -> None:
    rows = torch.full((1, VOCAB), torch.nan)
    drawn = choose(rows, [0], SamplingParams(temperature=1.0), VOCAB, drafts=[3]).drawn[0]
    assert drawn is not None
    assert all(math.isfinite(value) for value in (drawn.logprob, drawn.entropy, drawn.variance))


def test_a_known_draw() -> None:
    scores = torch.log(torch.tensor([[1.0, 0.5, 0.25, 0.25]], dtype=torch.float64))
    keep = torch.tensor([[True, True, True, False]])
    draw = Draw(torch.tensor([[7, 5, 3, 1]]), scores, keep)
    logprob, entropy, variance, expected = draw_numbers(draw, torch.tensor([5]), [3])[:, 0].tolist()
    p = [4 / 7, 2 / 7, 1 / 7]
    mean = sum(q * math.log(q) for q in p)
    assert (logprob, entropy, expected) == pytest.approx((math.log(2 / 7), -mean, 1 / 7))
    assert variance == pytest.approx(sum(q * (math.log(q) - mean) ** 2 for q in p))
