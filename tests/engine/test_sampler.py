"""The sampler: exact distributions, noise that depends on position and seed alone, rows that ignore each
other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.sampler import SamplingParams, choose, guess, pick

torch.set_num_threads(1)

SAMPLED = SamplingParams(temperature=1.0, seed=7)


def ids(logits: Tensor, positions: list[int], params: SamplingParams, valid: int | None = None) -> list[int]:
    return choose(logits, positions, params, logits.shape[1] if valid is None else valid).ids


def filtered(logits: list[float], params: SamplingParams) -> list[float]:
    """The distribution that the filters leave, written down naively."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if params.top_k:
        order = order[: params.top_k]
    weights = {token: math.exp((logits[token] - max(logits)) / params.temperature) for token in order}
    total, mass, nucleus = sum(weights.values()), 0.0, {}
    for token in order:
        if mass < params.top_p * total:
            nucleus[token] = weights[token]
        mass += weights[token]
    kept = {token: w for token, w in nucleus.items() if w >= params.min_p * max(nucleus.values())}
    return [kept.get(token, 0.0) / sum(kept.values()) for token in range(len(logits))]


def chi_square_p(counts: list[int], expected: list[float]) -> float:
    """Upper tail of chi-square, by the Wilson-Hilferty normal approximation."""
    cells = [(c, e) for c, e in zip(counts, expected, strict=True) if e > 0]
    freedom = len(cells) - 1
    if freedom == 0:
        return 1.0
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


class TestParams:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("temperature", -0.1),
            ("temperature", math.nan),
            ("temperature", math.inf),
            ("temperature", "1"),
            ("temperature", True),
            ("top_k", -1),
            ("top_k", 1.5),
            ("top_p", 0.0),
            ("top_p", 1.01),
            ("min_p", -0.1),
            ("min_p", 1.5),
            ("seed", 1 << 64),
            ("seed", -(1 << 63) - 1),
            ("seed", None),
            ("repetition_penalty", 0.0),
            ("repetition_penalty", 10.5),
            ("repetition_penalty", math.nan),
            ("presence_penalty", 2.1),
            ("presence_penalty", "0"),
            ("frequency_penalty", -2.1),
            ("frequency_penalty", False),
            ("logit_bias", ((5, 100.5),)),
            ("logit_bias", ((5, math.nan),)),
            ("logit_bias", ((5, True),)),
            ("logit_bias", ((-1, 1.0),)),
            ("logit_bias", ((True, 1.0),)),
            ("logit_bias", (("5", 1.0),)),
            ("logit_bias", ((5, 1.0), (6, 1.0), (5, 2.0))),
        ],
    )
    def test_the_error_names_the_field(self, field: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"^{field}: "):
            SamplingParams(**{field: value})  # type: ignore[arg-type]

    def test_full_range_of_seeds(self) -> None:
        logits = torch.zeros(1, 64)
        for seed in (0, -1, (1 << 64) - 1, 1 << 63, -(1 << 63)):
            assert 0 <= ids(logits, [3], SamplingParams(temperature=1.0, seed=seed))[0] < 64


FILTERS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.7, top_k=5),
    SamplingParams(temperature=1.0, top_p=0.8),
    SamplingParams(temperature=1.0, min_p=0.2),
    SamplingParams(temperature=0.6, top_p=0.95, top_k=6),
    SamplingParams(temperature=1.3, top_k=8, top_p=0.9, min_p=0.05),
]


class TestDistribution:
    LOGITS = (1.2, -0.5, 2.0, 0.3, 2.0, -1.0, 0.9, -3.0, 1.5, 0.0, -0.2, 1.1)

    @pytest.mark.parametrize("params", FILTERS, ids=str)
    def test_frequencies_match_the_filtered_softmax(self, params: SamplingParams) -> None:
        samples = 40_000
        exact = filtered(list(self.LOGITS), params)
        logits = torch.tensor([self.LOGITS]).expand(samples, -1)
        drawn = pick(logits, range(samples), params, len(self.LOGITS))
        counts = torch.bincount(drawn, minlength=len(self.LOGITS)).tolist()
        assert all(count == 0 for count, p in zip(counts, exact, strict=True) if p == 0)
        assert chi_square_p(counts, [p * samples for p in exact]) > 1e-4

    def test_across_seeds_at_one_position(self) -> None:
        samples, params = 4000, SamplingParams(temperature=1.0, top_k=6)
        logits = torch.tensor([self.LOGITS])
        counts = [0] * len(self.LOGITS)
        for seed in range(samples):
            drawn = pick(logits, [5], SamplingParams(temperature=1.0, top_k=6, seed=seed), len(self.LOGITS))
            counts[int(drawn)] += 1
        expected = [p * samples for p in filtered(list(self.LOGITS), params)]
        assert chi_square_p(counts, expected) > 1e-4

    def test_consecutive_positions_are_independent(self) -> None:
        drawn = pick(torch.zeros(40_000, 3), range(40_000), SAMPLED, 3)
        pairs = torch.bincount(drawn[:-1:2] * 3 + drawn[1::2], minlength=9).tolist()
        assert chi_square_p(pairs, [20_000 / 9] * 9) > 1e-4

    def test_top_k_breaks_ties_by_lowest_id(self) -> None:
        logits = torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.5]]).expand(500, -1)
        drawn = set(ids(logits, list(range(500)), SamplingParams(temperature=1.0, top_k=2)))
        assert drawn == {1, 2}

    def test_top_p_keeps_the_token_that_crosses(self) -> None:
        logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(500, -1)
        for top_p, expected in ((0.49, {0}), (0.51, {0, 1}), (0.79, {0, 1}), (0.81, {0, 1, 2})):
            params = SamplingParams(temperature=1.0, top_p=top_p)
            assert set(ids(logits, list(range(500)), params)) == expected

    def test_tiny_temperature_is_greedy(self) -> None:
        logits = torch.randn(50, 100, generator=torch.Generator().manual_seed(1)) * 50
        tiny = SamplingParams(temperature=1e-300)
        assert ids(logits, list(range(50)), tiny) == ids(logits, list(range(50)), SamplingParams())


class TestGreedy:
    def test_ties_go_to_the_lowest_id(self) -> None:
        logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, -0.0, -1.0], [-0.0, 0.0, -1.0], [-2.0, -2.0, -2.0]])
        assert ids(logits, [0, 1, 2, 3], SamplingParams()) == [1, 0, 0, 0]

    def test_negative_logits_are_ordered(self) -> None:
        assert ids(torch.tensor([[-5.0, -1.0, -3.0]]), [0], SamplingParams()) == [1]

    @given(st.integers(0, 1 << 32), st.integers(1, 300))
    @settings(max_examples=40)
    def test_agrees_with_argmax(self, seed: int, vocab: int) -> None:
        logits = torch.randn(3, vocab, generator=torch.Generator().manual_seed(seed))
        assert ids(logits, [0, 1, 2], SamplingParams()) == logits.argmax(dim=1).tolist()


class TestPaddedVocabulary:
    @pytest.mark.parametrize("params", [SamplingParams(), SAMPLED, *FILTERS], ids=str)
    def test_padding_is_never_chosen_nor_looked_at(self, params: SamplingParams) -> None:
        logits = torch.randn(100, 20, generator=torch.Generator().manual_seed(2))
        padded = torch.cat([logits, torch.full((100, 12), 99.0)], dim=1)
        padded[:, 25] = math.nan
        positions = list(range(100))
        assert choose(padded, positions, params, 20) == choose(logits, positions, params, 20)
        assert all(choose(padded, positions, params, 20).finite)


class TestNumbers:
    def test_they_describe_the_unfiltered_distribution(self) -> None:
        logits = torch.tensor([[0.7, 0.2, 0.1]]).log() + 5
        choice = choose(logits, [0], SamplingParams(temperature=2.0, top_k=1), 3)
        assert choice.ids == [0]
        assert choice.logprob[0] == pytest.approx(math.log(0.7), rel=1e-6)
        assert choice.top1_prob[0] == pytest.approx(0.7, rel=1e-6)
        assert choice.margin[0] == pytest.approx(math.log(0.7 / 0.2), rel=1e-5)
        entropy = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
        assert choice.entropy[0] == pytest.approx(entropy, rel=1e-6)

    def test_logprob_is_of_the_chosen_token(self) -> None:
        logits = torch.randn(200, 30, generator=torch.Generator().manual_seed(3))
        choice = choose(logits, list(range(200)), SAMPLED, 30)
        expected = torch.log_softmax(logits.double(), dim=1).gather(1, torch.tensor(choice.ids).unsqueeze(1))
        np.testing.assert_allclose(choice.logprob, expected[:, 0].numpy(), atol=1e-12)
        assert any(token != best for token, best in zip(choice.ids, logits.argmax(1).tolist(), strict=True))

    def test_one_token_vocabulary(self) -> None:
        choice = choose(torch.tensor([[3.0]]), [0], SAMPLED, 1)
        assert (choice.ids, choice.logprob, choice.margin, choice.entropy) == ([0], [0.0], [0.0], [0.0])


class TestAdjusted:
    def test_tokens_come_from_the_adjusted_logits_and_numbers_from_the_models_own(self) -> None:
        logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        adjusted = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
        own = choose(logits, [0, 1], SamplingParams(), 3)
        choice = choose(logits, [0, 1], SamplingParams(), 3, adjusted)
        assert (choice.ids, pick(logits, [0, 1], SamplingParams(), 3, adjusted).tolist()) == ([1, 2], [1, 2])
        assert (choice.top1_prob, choice.margin, choice.entropy) == (own.top1_prob, own.margin, own.entropy)
        assert choice.logprob == pytest.approx(torch.log_softmax(logits, 1)[[0, 1], [1, 2]].tolist(), abs=1e-6)

    @pytest.mark.parametrize("params", [SAMPLED, *FILTERS], ids=str)
    def test_filters_see_the_adjusted_logits(self, params: SamplingParams) -> None:
        generator = torch.Generator().manual_seed(8)
        logits, adjusted = torch.randn(60, 40, generator=generator), torch.randn(60, 40, generator=generator)
        assert choose(logits, range(60), params, 40, adjusted).ids == ids(adjusted, list(range(60)), params)

    def test_penalties_cannot_be_forgotten(self) -> None:
        for call in (choose, pick):
            with pytest.raises(ValueError, match=r"^adjusted: .*Penalties\.adjust"):
                call(torch.zeros(1, 5), [0], SamplingParams(presence_penalty=1), 5)

    def test_its_shape_must_fit(self) -> None:
        with pytest.raises(ValueError, match="logits: "):
            choose(torch.zeros(2, 5), [0, 1], SamplingParams(), 5, torch.zeros(1, 5))


class TestTop:
    @pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
    def test_the_likeliest_tokens_best_first(self, count: int) -> None:
        logits = torch.randn(9, 30, generator=torch.Generator().manual_seed(4))
        choice = choose(logits, range(9), SAMPLED, 30, top=count)
        expected = torch.log_softmax(logits.double(), 1).sort(dim=1, descending=True, stable=True)
        for row, listed in enumerate(choice.top):
            assert [token for token, _ in listed] == expected.indices[row, :count].tolist()
            assert [p for _, p in listed] == pytest.approx(expected.values[row, :count].tolist(), abs=1e-12)
            assert dict(listed).get(choice.ids[row], choice.logprob[row]) == choice.logprob[row]
        assert choose(logits, range(9), SAMPLED, 30).margin == choice.margin

    def test_ties_by_lowest_id_and_no_more_than_there_are(self) -> None:
        (listed,) = choose(torch.tensor([[1.0, 2.0, 2.0, 9.0]]), [0], SamplingParams(), 3, top=20).top
        assert [token for token, _ in listed] == [1, 2, 0]
        assert choose(torch.tensor([[3.0]]), [0], SAMPLED, 1, top=5).top == [((0, 0.0),)]

    def test_what_is_not_finite_is_no_alternative(self) -> None:
        logits = torch.tensor([[1.0, math.nan, 0.5], [math.inf] * 3])
        first, second = choose(logits, [0, 1], SAMPLED, 3, top=3).top
        assert [token for token, _ in first] == [0, 2]
        assert second == ()


class TestNotFinite:
    @pytest.mark.parametrize("params", [SamplingParams(), SAMPLED, *FILTERS], ids=str)
    @pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
    def test_flagged_and_deterministic(self, params: SamplingParams, poison: float) -> None:
        logits = torch.tensor([[1.0, 2.0, 0.5], [poison, 2.0, 0.5], [poison] * 3])
        choice = choose(logits, [4, 5, 6], params, 3)
        assert choice.finite == [True, False, False]
        assert choice.ids[1] in (1, 2)
        assert choice.ids[2] == 0
        assert choice == choose(logits, [4, 5, 6], params, 3)
        rows = zip(choice.logprob, choice.top1_prob, choice.margin, choice.entropy, strict=True)
        assert all(math.isfinite(value) for row in rows for value in row)

    def test_extreme_but_finite(self) -> None:
        big = torch.finfo(torch.float32).max
        choice = choose(torch.tensor([[big, -big, 0.0], [-big, -big, -big]]), [0, 1], SAMPLED, 3)
        assert choice.finite == [True, True]
        assert choice.ids[0] == 0


class TestRowsAreIndependent:
    @given(
        st.integers(0, 1 << 32),
        st.integers(1, 9),
        st.sampled_from([3, 100, 513, 4099]),
        st.sampled_from([SamplingParams(), SAMPLED, *FILTERS]),
        st.sampled_from([1.0, 8.0]),
    )
    @settings(max_examples=120)
    def test_any_batch_gives_the_same_bits(
        self, seed: int, rows: int, vocab: int, params: SamplingParams, scale: float
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        # bfloat16 logits tie often
        logits = (torch.randn(rows, vocab, generator=generator) * scale).bfloat16().float()
        if seed % 5 == 0:
            logits[seed % rows, seed % vocab] = math.nan
        positions = [int(p) for p in torch.randint(0, 1 << 18, (rows,), generator=generator)]
        whole = choose(logits, positions, params, vocab, top=5)
        assert pick(logits, positions, params, vocab).tolist() == whole.ids
        for row in range(rows):
            alone = choose(logits[row : row + 1].clone(), positions[row : row + 1], params, vocab, top=5)
            assert alone.ids == [whole.ids[row]]
            assert alone.logprob == [whole.logprob[row]]
            assert alone.top1_prob == [whole.top1_prob[row]]
            assert alone.margin == [whole.margin[row]]
            assert alone.entropy == [whole.entropy[row]]
            assert alone.finite == [whole.finite[row]]
            assert alone.top == [whole.top[row]]


class TestShapes:
    def test_positions_must_match_rows(self) -> None:
        with pytest.raises(ValueError, match="logits: "):
            choose(torch.zeros(2, 5), [0], SamplingParams(), 5)

    @pytest.mark.parametrize("valid", [0, 6])
    def test_valid_tokens_must_fit(self, valid: int) -> None:
        with pytest.raises(ValueError, match="valid_tokens: "):
            choose(torch.zeros(1, 5), [0], SamplingParams(), valid)


def test_what_rows_choose_themselves_is_told_beside_what_is_taken() -> None:
    """An audit holds it against what recomputed rows choose, where a rule of acceptance has taken something else."""
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    alone = choose(logits, [4, 5, 6], SAMPLED, 8)
    taken = [(token + 1) % 8 for token in alone.ids]
    drawn = choose(logits, [4, 5, 6], SAMPLED, 8, taken=taken, drafts=taken[:2])
    assert (drawn.ids, drawn.own) == (taken, alone.ids) and alone.own == alone.ids
    assert choose(logits, [4, 5, 6], SamplingParams(), 8, taken=taken).own == taken, "nothing was drawn"


def test_a_guess_is_what_is_taken_where_one_logit_is_the_highest() -> None:
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(3))
    logits[:, 38:] = 9.0  # padding
    sampled = SamplingParams(temperature=0.8, top_k=9, seed=4)
    for params in (SamplingParams(), sampled):
        found = guess(logits, range(6), params, 38)
        assert found.tolist() == pick(logits, range(6), params, 38).tolist()
    flat = logits.clone()
    flat[:, 5] = 99.0
    penalised = SamplingParams(presence_penalty=0.5)
    assert guess(logits, range(6), penalised, 38, flat).tolist() == [5] * 6
