"""Training and held-out tasks, and a small tokenizer trained on them, made once for all tests of this folder."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from examples.embedded_model.tasks import Task, make_task
from examples.embedded_model.vocabulary import train_tokenizer

SMALL_VOCABULARY = 420


@pytest.fixture(scope="session")
def training_tasks() -> list[Task]:
    return [make_task(seed) for seed in range(150)]


@pytest.fixture(scope="session")
def held_out_tasks() -> list[Task]:
    return [make_task(seed, held_out=True) for seed in range(100)]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SMALL_VOCABULARY, episodes=40)
