"""Penalties: what they do to a logit, that each row counts its own drafts, and that a rewind takes everything back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.penalties import Penalties
from engine.sampler import SamplingParams, choose

torch.set_num_threads(1)

VOCAB = 12
ALL = SamplingParams(
    repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=-0.3, logit_bias=((2, 1.5), (7, -100.0))
)
EACH = [
    SamplingParams(repetition_penalty=1.3),
    SamplingParams(repetition_penalty=0.7),
    SamplingParams(presence_penalty=1.5),
    SamplingParams(frequency_penalty=0.6),
    SamplingParams(logit_bias=((0, 3.0), (11, -4.5))),
    ALL,
]
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=12)


def naive(logit: float, token: int, params: SamplingParams, prompt: Sequence[int], said: Sequence[int]) -> float:
    """One logit, as the definitions read."""
    value = logit + dict(params.logit_bias).get(token, 0.0)
    if token in prompt or token in said:
        value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
    count = Counter(said)[token]
    return value - count * params.frequency_penalty - (count > 0) * params.presence_penalty


def logits_for(rows: int, seed: int, vocab: int = VOCAB) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


@given(st.sampled_from(EACH), TOKENS, TOKENS, st.lists(st.integers(0, VOCAB - 1), max_size=7), st.integers(0, 1 << 30))
@settings(max_examples=150)
def test_every_row_counts_the_history_and_its_own_drafts(
    params: SamplingParams, prompt: list[int], said: list[int], drafts: list[int], seed: int
) -> None:
    logits = logits_for(len(drafts) + 1, seed)
    before = logits.clone()
    penalties = Penalties(params, VOCAB, prompt)
    penalties.extend(said)
    adjusted = penalties.adjust(logits, drafts)
    assert adjusted is not None
    assert torch.equal(logits, before)
    for row in range(len(drafts) + 1):
        history = [*said, *drafts[:row]]
        expected = [naive(float(logits[row, t]), t, params, prompt, history) for t in range(VOCAB)]
        assert adjusted[row].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        # plain decoding at this position, and a drafter that has chained up to it: the same bits
        plain = Penalties(params, VOCAB, prompt)
        for token in history:
            plain.extend([token])
        for alone in (plain.adjust(logits[row : row + 1]), penalties.adjust(logits[row : row + 1], drafts[:row])):
            assert alone is not None
            assert torch.equal(alone[0], adjusted[row])


@given(st.sampled_from(EACH), TOKENS, TOKENS, st.lists(TOKENS, max_size=5), st.integers(0, 12))
def test_a_rewind_takes_back_exactly_what_was_said(
    params: SamplingParams, prompt: list[int], said: list[int], more: list[list[int]], kept: int
) -> None:
    penalties, logits = Penalties(params, VOCAB, prompt), logits_for(1, 3)
    generated: list[int] = []
    for tokens in (said, *more):
        penalties.extend(tokens)
        generated += tokens
    penalties.forget(generated[kept:])
    fresh = Penalties(params, VOCAB, prompt)
    fresh.extend(generated[:kept])
    adjusted, expected = penalties.adjust(logits), fresh.adjust(logits)
    assert adjusted is not None
    assert expected is not None
    assert torch.equal(adjusted, expected)


@given(st.sampled_from(EACH), TOKENS, st.integers(0, 1 << 30), st.sampled_from([0.0, 0.8]))
def test_what_is_chosen_does_not_depend_on_the_batch(
    params: SamplingParams, drafts: list[int], seed: int, temperature: float
) -> None:
    params = replace(params, temperature=temperature, top_k=6, top_p=0.9, min_p=0.01, seed=seed)
    penalties, logits = Penalties(params, VOCAB, [1, 2, 3]), logits_for(len(drafts) + 1, seed)
    positions = range(100, 101 + len(drafts))
    whole = choose(logits, positions, params, VOCAB, penalties.adjust(logits, drafts))
    for row in range(len(drafts) + 1):
        single = logits[row : row + 1].clone()
        alone = choose(single, [100 + row], params, VOCAB, penalties.adjust(single, drafts[:row]))
        assert alone.ids == [whole.ids[row]]
        assert alone.logprob == [whole.logprob[row]]


def test_presence_and_frequency_leave_the_prompt_alone() -> None:
    logits = logits_for(1, 5)
    for params in (SamplingParams(presence_penalty=2.0), SamplingParams(frequency_penalty=2.0)):
        adjusted = Penalties(params, VOCAB, list(range(VOCAB))).adjust(logits)
        assert adjusted is not None
        assert torch.equal(adjusted, logits)


def test_nothing_is_done_where_nothing_is_asked() -> None:
    penalties = Penalties(SamplingParams(temperature=1.0, top_k=3), VOCAB, [1, 2])
    penalties.extend([3])
    penalties.forget([3])
    assert penalties.adjust(logits_for(1, 0)) is None


def test_padding_is_neither_looked_at_nor_counted() -> None:
    penalties = Penalties(ALL, VOCAB, [3, VOCAB + 2])
    penalties.extend([4, VOCAB])
    padded = torch.cat([logits_for(2, 1), torch.full((2, 5), math.nan)], dim=1)
    adjusted = penalties.adjust(padded, [VOCAB + 1])
    assert adjusted is not None
    assert adjusted.shape == (2, VOCAB)
    clean = Penalties(ALL, VOCAB, [3])
    clean.extend([4])
    expected = clean.adjust(logits_for(2, 1)[:1])
    assert expected is not None
    assert torch.equal(adjusted[0], expected[0])


def test_biases_ban_and_force_in_greedy_decoding_too() -> None:
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    for bias, expected in ((((0, -100.0),), 1), (((2, 100.0),), 2), (((1, 3.9),), 0), (((1, 4.1),), 1)):
        params = SamplingParams(logit_bias=bias)
        assert choose(logits, [0], params, 3, Penalties(params, 3).adjust(logits)).ids == [expected]


def test_what_is_not_a_number_stays_out_and_what_is_stays_one() -> None:
    big = torch.finfo(torch.float32).max
    logits = torch.tensor([[math.nan, math.inf, -math.inf, -big, big, 0.0]])
    params = SamplingParams(repetition_penalty=10, logit_bias=tuple((t, 100.0) for t in range(6)))
    penalties = Penalties(params, 6, range(6))
    adjusted = penalties.adjust(logits)
    assert adjusted is not None
    assert torch.isfinite(adjusted).tolist() == [[False, False, False, True, True, True]]
    choice = choose(logits, [0], params, 6, adjusted)
    assert (choice.ids, choice.finite) == ([4], [False])


def test_a_bias_on_a_token_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"^logit_bias: token 12 "):
        Penalties(SamplingParams(logit_bias=((12, 1.0),)), VOCAB)


def test_rows_need_their_drafts() -> None:
    with pytest.raises(ValueError, match=r"^logits: 3 rows need 2 drafts"):
        Penalties(ALL, VOCAB).adjust(logits_for(3, 0), [1])


@pytest.mark.parametrize("penalty", [1.3, 0.6])
def test_repetition_is_what_transformers_computes(penalty: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    prompt, said, drafts = [1, 1, 4], [7, 2], [9, 4]
    logits = logits_for(3, 9)
    penalties = Penalties(SamplingParams(repetition_penalty=penalty), VOCAB, prompt)
    penalties.extend(said)
    adjusted = penalties.adjust(logits, drafts)
    assert adjusted is not None
    for row in range(3):
        ids = torch.tensor([[*prompt, *said, *drafts[:row]]])
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[row : row + 1].clone())
        assert torch.equal(adjusted[row], expected[0])
