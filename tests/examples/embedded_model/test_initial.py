"""The hand-written copying circuit: it copies unseen strings before any training, and refuses another layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from examples.embedded_model.initial import CONSTANT, EMBEDDED, SHIFTS, SKETCH, initialise
from examples.embedded_model.model import Shape, TrainableModel

VOCAB = 512


@pytest.fixture(scope="module")
def model() -> TrainableModel:
    torch.manual_seed(1)
    model = TrainableModel(Shape(vocab_size=VOCAB, num_hidden_layers=4, intermediate_size=32))
    initialise(model)
    return model.eval()


def copy_loss(model: TrainableModel, alphabet: int, size: int, rows: int = 6) -> tuple[float, float]:
    """Mean loss in nats on the repetition of random strings, and on their first half."""
    rng = np.random.default_rng(alphabet * 1000 + size)
    half = np.stack([rng.choice(rng.choice(np.arange(13, VOCAB), alphabet, replace=False), size) for _ in range(rows)])
    tokens = torch.from_numpy(np.concatenate((half, half), 1))
    with torch.no_grad():
        logits = model.logits(model(tokens))[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(rows, -1)
    return float(losses[:, size + SHIFTS :].mean()), float(losses[:, : size - 1].mean())


@pytest.mark.parametrize(("alphabet", "size"), [(40, 60), (40, 120), (150, 100), (300, 120)])
def test_repeated_strings_are_copied_without_training(model: TrainableModel, alphabet: int, size: int) -> None:
    copied, unseen = copy_loss(model, alphabet, size)
    assert copied < 0.6
    assert unseen > 3.0, "the first half cannot be known"


def test_without_the_circuit_nothing_is_copied() -> None:
    torch.manual_seed(1)
    plain = TrainableModel(Shape(vocab_size=VOCAB, num_hidden_layers=2, intermediate_size=32))
    nn.init.normal_(plain.model.embed_tokens.weight, std=0.02)
    copied, _ = copy_loss(plain, 40, 60)
    assert copied > 3.0


def test_layers_after_the_circuit_add_nothing_yet(model: TrainableModel) -> None:
    tokens = torch.randint(13, VOCAB, (2, 40), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        everything = model(tokens)
        layers = model.model.layers
        model.model.layers = nn.ModuleList(list(layers)[:2])
        circuit = model(tokens)
        model.model.layers = layers
    assert torch.equal(everything, circuit)


def test_the_constant_is_the_same_for_every_token(model: TrainableModel) -> None:
    embedding = model.model.embed_tokens.weight
    assert (embedding[:, 0] == CONSTANT).all()
    assert (embedding[:, EMBEDDED:] == 0).all()
    assert embedding[:, 1:EMBEDDED].std() > 0.05


def test_a_seed_gives_the_same_weights() -> None:
    made = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        model = TrainableModel(Shape(vocab_size=64, num_hidden_layers=2, intermediate_size=16))
        initialise(model)
        made.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert all(weights.isfinite().all() for weights in made)


@pytest.mark.parametrize("size", [EMBEDDED + SHIFTS * SKETCH - 64, 512])
def test_another_hidden_size_is_refused(size: int) -> None:
    model = TrainableModel(Shape(vocab_size=64, hidden_size=size, num_hidden_layers=2, intermediate_size=16))
    with pytest.raises(ValueError, match=f"hidden_size {size}: .* {EMBEDDED + SHIFTS * SKETCH}"):
        initialise(model)
