"""The noise: SplitMix64 to the bit, Gumbel in distribution, independent across seeds and positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.noise import gumbel

torch.set_num_threads(1)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_noise_bits() -> None:
    for seed, position in ((0, 0), (7, 12), ((1 << 64) - 1, 250_000)):
        assert torch.equal(gumbel(seed, position, 250_000, "cuda").cpu(), gumbel(seed, position, 250_000))
