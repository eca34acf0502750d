"""What the mathematics promises of the quantisers, measured: distortion, slope, bounds, and no neighbour's influence.

The exact distortion of a coordinate of a random unit vector (its Beta law) is integrated here, independently of the
tables' own derivation.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor

from engine.codecs import lloyd_max
from engine.codecs.quantiser import BLOCK, Encoded, Int8, LloydMax, Quantiser, Scratch, encode, quantiser
from engine.codecs.rotation import rotation

CPU = torch.device("cpu")
DIMS = (64, 128, 256)
BITS = (2, 3, 4)


@cache
def beta_distortion(bits: int, dim: int) -> float:
    """Of a Lloyd-Max codebook fitted to the Beta law itself (Lloyd's iteration on a fine grid), per unit vector."""
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    # a unit vector's coordinate has density (1 - x^2)^((d-3)/2) up to its norm
    weight = ((dim - 3) / 2 * torch.log1p(-x.square().clamp(max=1 - 1e-12))).exp()
    weight /= weight.sum()
    table = lloyd_max.levels(bits).double() / math.sqrt(dim)
    for _ in range(60 if bits < 4 else 150):
        cell = torch.bucketize(x, (table[1:] + table[:-1]) / 2)
        mass = torch.zeros_like(table).index_add_(0, cell, weight)
        table = torch.zeros_like(table).index_add_(0, cell, weight * x) / mass
    return float(dim * (weight * (x - table[torch.bucketize(x, (table[1:] + table[:-1]) / 2)]).square()).sum())


def unit_vectors(count: int, dim: int, seed: int = 0) -> Tensor:
    x = torch.randn(count, 1, dim, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def restored(codec: Quantiser, encoded: Encoded) -> Tensor:
    values = codec.decode(encoded.codes.contiguous(), Scratch(CPU)) * encoded.scale[..., None].float()
    return values @ codec.rotate.T


def test_the_exact_distortions_are_those_published() -> None:
    """The research note's column for 128 dimensions; the paper prints them cut short (0.36, 0.117, 0.03, 0.009)."""
    for bits, known in ((1, 0.360889), (2, 0.116000), (3, 0.033966), (4, 0.009315)):
        assert beta_distortion(bits, 128) == pytest.approx(known, rel=1e-3)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bits", (1, 2, 3, 4))
def test_distortion_is_within_two_percent_of_the_beta_law(bits: int, dim: int) -> None:
    x = unit_vectors(4096, dim)[:, 0]
    y = x @ rotation(dim)
    table = lloyd_max.levels(bits) / math.sqrt(dim)
    codes = torch.bucketize(y, lloyd_max.boundaries(bits) / math.sqrt(dim), right=True)
    measured = float((table[codes] @ rotation(dim).T - x).square().sum(-1).mean())
    assert measured == pytest.approx(beta_distortion(bits, dim), rel=0.02)
    assert 4.0**-bits <= measured <= math.sqrt(3) * math.pi / 2 * 4.0**-bits


@pytest.mark.parametrize("dim", (64, 80, 96, 128, 256))
@pytest.mark.parametrize("bits", BITS)
def test_scores_are_unbiased(bits: int, dim: int) -> None:
    """Slope 1 for the vector itself and for others, unlike the plain codebook's 1 - D."""
    codec = LloydMax(bits, dim, CPU)
    x = unit_vectors(4096, dim)
    encoded = encode(codec, x)
    back = restored(codec, encoded)
    assert float((x * back).sum() / x.square().sum()) == pytest.approx(1.0, abs=0.002)
    noise = unit_vectors(4096, dim, seed=1)
    probe = 0.9 * x + math.sqrt(1 - 0.81) * noise
    slope = (probe * back).sum() / (probe * x).sum()
    assert float(slope) == pytest.approx(1.0, abs=0.002)
    expected = 1 - beta_distortion(bits, dim)
    assert float(encoded.cosine.mean()) == pytest.approx(expected, abs=0.003)
    # the unbiased scale costs a little distortion, at most D / (1 - D) instead of D, and evens out the vectors' norms
    distortion = float((back - x).square().sum(-1).mean())
    assert 0.96 * (1 - expected) <= distortion <= 1.02 * (1 / expected - 1)


@pytest.mark.parametrize("dim", DIMS)
def test_eight_bits(dim: int) -> None:
    codec = Int8(dim, CPU)
    x = unit_vectors(2048, dim)
    back = restored(codec, encode(codec, x))
    assert float((back - x).square().sum(-1).mean()) < 6e-5
    assert float((x * back).sum() / x.square().sum()) == pytest.approx(1.0, abs=1e-4)


def adversaries(dim: int) -> dict[str, Tensor]:
    hadamard = torch.ones(1, 1)
    while hadamard.shape[0] < dim:
        hadamard = torch.cat((torch.cat((hadamard, hadamard), 1), torch.cat((hadamard, -hadamard), 1)))
    sparse = torch.zeros(dim)
    sparse[[3, 40]] = torch.tensor([1.0, -1.0])
    outliers = torch.randn(dim, generator=torch.Generator().manual_seed(2))
    outliers[[5, 17]] *= 60
    return {"constant": torch.ones(dim), "row": hadamard[5], "sparse": sparse, "outliers": outliers}


@pytest.mark.parametrize("name", ["constant", "row", "sparse", "outliers"])
@pytest.mark.parametrize("dim", DIMS)
def test_structured_vectors_are_no_exception(dim: int, name: str) -> None:
    """A bare Hadamard matrix gives 0.59 for the first two at 4 bits; two equal spikes are the worst case of any one."""
    x = adversaries(dim)[name]
    codec = LloydMax(4, dim, CPU)
    back = restored(codec, encode(codec, x[None, None]))[0, 0]
    assert float((back - x).square().sum() / x.square().sum()) < (0.03 if name == "sparse" else 0.016)


@pytest.mark.parametrize("bits", (*BITS, 8))
def test_a_vector_does_not_hear_its_neighbours(bits: int) -> None:
    """Bit for bit the same codes however many are coded together and wherever a vector stands."""
    codec = quantiser(bits, 64, CPU)
    x = torch.randn(200, 2, 64, generator=torch.Generator().manual_seed(4)) * 3
    whole = encode(codec, x)
    for start, end in ((0, 1), (0, 63), (17, 18), (63, 66), (100, 200)):
        part = encode(codec, x[start:end])
        assert torch.equal(part.codes, whole.codes[start:end])
        assert torch.equal(part.scale, whole.scale[start:end])
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(5))
    assert torch.equal(encode(codec, x[shuffled]).codes, whole.codes[shuffled])
    assert BLOCK == 64


@pytest.mark.parametrize("bits", (*BITS, 8))
def test_coding_what_was_decoded_changes_little(bits: int) -> None:
    """Not exact, because the scale is not the norm; the levels stay where they are."""
    codec = quantiser(bits, 128, CPU)
    once = restored(codec, encode(codec, unit_vectors(512, 128)))
    twice = restored(codec, encode(codec, once))
    assert float((twice - once).square().sum() / once.square().sum()) < (0.03 if bits == 2 else 0.004)


@pytest.mark.parametrize("bits", (*BITS, 8))
def test_zero_tiny_huge_and_broken_vectors(bits: int) -> None:
    codec = quantiser(bits, 64, CPU)
    x = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(6))
    x[0] = 0
    x[1] *= 1e-3
    x[2] *= 1000
    x[3, 0, 7] = torch.nan
    x[4, 0, 7] = torch.inf
    encoded = encode(codec, x)
    back = restored(codec, encoded)
    assert not back[0].any()
    assert encoded.scale[0] == 0
    assert encoded.cosine[0] == 1
    assert back[[1, 2, 5]].isfinite().all()
    loss = (back - x).norm(dim=-1)[[1, 2, 5]] / x.norm(dim=-1)[[1, 2, 5]]
    assert (loss < 0.55).all()
    assert not encoded.scale[3].isfinite(), "what is broken must stay visible"
    assert not back[4].isfinite().all() or not encoded.scale[4].isfinite()
    assert torch.equal(encoded.codes[5:], encode(codec, x[5:]).codes)


@pytest.mark.parametrize("length", (256, 16_384))
def test_attention_kl_is_half_the_noise_squared(length: int) -> None:
    """sigma = scale * |q| * |k| * sqrt(D / d) predicts the harm, and more context does not add to it."""
    dim, bits = 128, 4
    generator = torch.Generator().manual_seed(length)
    keys = torch.randn(length, 1, dim, generator=generator)
    codec = LloydMax(bits, dim, CPU)
    noisy = restored(codec, encode(codec, keys))[:, 0]
    distortion = 1 / (1 - beta_distortion(bits, dim)) - 1
    for size in (1.0, 2.0):
        queries = torch.randn(64, dim, generator=generator) * size
        exact = (queries @ keys[:, 0].T * dim**-0.5).log_softmax(-1)
        coded = (queries @ noisy.T * dim**-0.5).log_softmax(-1)
        kl = (exact.exp() * (exact - coded)).sum(-1)
        sigma2 = dim**-1 * queries.square().sum(-1) * dim * distortion / dim
        assert float(kl.mean()) == pytest.approx(float(sigma2.mean()) / 2, rel=0.2)
