"""Which kept sequence a prompt gets, and that none is lent twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.model import Model
from engine.prefix import PrefixStore
from engine.sequence import Sequence


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def store(model: Model, *kept: list[int], capacity: int = 4) -> tuple[PrefixStore, list[Sequence]]:
    made = PrefixStore(lambda: Sequence(model), capacity)
    sequences = []
    for tokens in kept:
        sequence = Sequence(model)
        sequence.tokens = list(tokens)
        made.put(sequence)
        sequences.append(sequence)
    return made, sequences


def test_the_longest_prefix_wins_and_is_lent_once(model: Model) -> None:
    shorter, longer = list(range(40)), [*range(40), *range(90, 110)]
    prefixes, (a, b) = store(model, shorter, longer)
    prompt = [*longer, 7]
    assert prefixes.take(prompt) is b
    assert len(prefixes) == 1
    assert prefixes.take(prompt) is a
    assert prefixes.take(prompt) not in (a, b)


def test_an_unrelated_prompt_does_not_take_a_long_context(model: Model) -> None:
    """Two agents behind one system prompt: the second must not destroy the first one's context."""
    system = list(range(30))
    prefixes, (kept,) = store(model, [*system, *range(100, 300)])
    assert prefixes.take([*system, *range(500, 520)]) is not kept
    assert prefixes.take([*system, *range(100, 250), 9]) is kept


def test_a_short_overlap_is_not_worth_taking(model: Model) -> None:
    prefixes, (kept,) = store(model, list(range(20)))
    assert prefixes.take([*range(15), 99]) is not kept
    assert prefixes.take([*range(16), 99]) is kept


def test_the_least_recently_used_one_is_dropped(model: Model) -> None:
    prompts = [[i] * 20 for i in range(3)]
    prefixes, (a, b, c) = store(model, *prompts, capacity=2)
    assert prefixes.take([*prompts[0], 0]) is not a
    assert prefixes.take([*prompts[1], 0]) is b
    prefixes.put(b)
    prefixes.put(Sequence(model))
    assert prefixes.take([*prompts[2], 0]) is not c
    assert prefixes.take([*prompts[1], 0]) is b


def test_without_capacity_nothing_is_kept(model: Model) -> None:
    prefixes, _ = store(model, list(range(40)), capacity=0)
    assert len(prefixes) == 0
    with pytest.raises(ValueError, match="capacity"):
        PrefixStore(lambda: Sequence(model), -1)


def test_clear(model: Model) -> None:
    prefixes, _ = store(model, list(range(40)))
    prefixes.clear()
    assert len(prefixes) == 0
