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

from engine.sampler import SamplingParams, choose, gumbel, pick

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


def splitmix(seed: int, position: int, count: int) -> np.ndarray:
    """The noise's integers, from unsigned arithmetic."""
    gamma = np.uint64(0x9E3779B97F4A7C15)

    def mix(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    root = mix(np.array([seed], np.uint64) + gamma)
    key = mix(root ^ mix(np.array([position + 1], np.uint64) * gamma))
    return mix(key + np.arange(1, count + 1, dtype=np.uint64) * gamma)


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
        ],
    )
    def test_the_error_names_the_field(self, field: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"^{field}: "):
            SamplingParams(**{field: value})  # type: ignore[arg-type]

    def test_full_range_of_seeds(self) -> None:
        logits = torch.zeros(1, 64)
        for seed in (0, -1, (1 << 64) - 1, 1 << 63, -(1 << 63)):
            assert 0 <= ids(logits, [3], SamplingParams(temperature=1.0, seed=seed))[0] < 64


class TestNoise:
    def test_integers_are_splitmix64(self) -> None:
        for seed, position in ((0, 0), (7, 12), ((1 << 64) - 1, 250_000), (1 << 63, 1)):
            uniform = ((splitmix(seed, position, 5000) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
            expected = -np.log(-np.log(uniform))
            np.testing.assert_allclose(gumbel(seed, position, 5000).numpy(), expected, rtol=1e-12, atol=1e-12)

    def test_a_token_keeps_its_noise_in_any_vocabulary(self) -> None:
        assert torch.equal(gumbel(5, 9, 1000)[:10], gumbel(5, 9, 10))

    def test_moments_are_those_of_a_gumbel(self) -> None:
        noise = gumbel(3, 4, 200_000)
        assert noise.dtype == torch.float64
        assert float(noise.mean()) == pytest.approx(0.5772156649, abs=0.01)
        assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)
        assert bool(torch.isfinite(noise).all())

    def test_seed_and_position_both_matter_and_do_not_mix(self) -> None:
        points = [(seed, position) for seed in (0, 1, 2, 1 << 40) for position in (0, 1, 2, 1 << 17)]
        seen = {tuple(gumbel(seed, position, 8).tolist()) for seed, position in points}
        assert len(seen) == len(points)

    def test_neighbouring_positions_and_seeds_are_uncorrelated(self) -> None:
        base = gumbel(11, 100, 50_000)
        for other in (gumbel(11, 101, 50_000), gumbel(12, 100, 50_000), gumbel(100, 11, 50_000)):
            correlation = float(torch.corrcoef(torch.stack([base, other]))[0, 1])
            assert abs(correlation) < 0.02
        assert abs(float(torch.corrcoef(torch.stack([base[1:], base[:-1]]))[0, 1])) < 0.02


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
        whole = choose(logits, positions, params, vocab)
        assert pick(logits, positions, params, vocab).tolist() == whole.ids
        for row in range(rows):
            alone = choose(logits[row : row + 1].clone(), positions[row : row + 1], params, vocab)
            assert alone.ids == [whole.ids[row]]
            assert alone.logprob == [whole.logprob[row]]
            assert alone.top1_prob == [whole.top1_prob[row]]
            assert alone.margin == [whole.margin[row]]
            assert alone.entropy == [whole.entropy[row]]
            assert alone.finite == [whole.finite[row]]


class TestShapes:
    def test_positions_must_match_rows(self) -> None:
        with pytest.raises(ValueError, match="logits: "):
            choose(torch.zeros(2, 5), [0], SamplingParams(), 5)

    @pytest.mark.parametrize("valid", [0, 6])
    def test_valid_tokens_must_fit(self, valid: int) -> None:
        with pytest.raises(ValueError, match="valid_tokens: "):
            choose(torch.zeros(1, 5), [0], SamplingParams(), valid)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_noise_bits() -> None:
    for seed, position in ((0, 0), (7, 12), ((1 << 64) - 1, 250_000)):
        assert torch.equal(gumbel(seed, position, 250_000, "cuda").cpu(), gumbel(seed, position, 250_000))
