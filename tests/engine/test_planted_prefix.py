"""What is kept of a turn that has speculated is poisoned; a turn that has not, and a cold start, are sound."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.deltanet import INNER
from engine.model import Model
from engine.planted_prefix import poison
from engine.sequence import Sequence


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def spoken(model: Model, prompt: int, *, speculative: bool) -> Sequence:
    sequence = Sequence(model)
    sequence.begin(ids(prompt))
    list(sequence.prefill())
    rows = sequence.decode([7, 8])
    sequence.commit([7, 9], rows.hidden[:2], speculative=speculative)
    return sequence


def test_the_newest_reusable_checkpoint_and_the_values_before_it_are_wrong(model: Model) -> None:
    sequence, clean = (spoken(model, 200, speculative=True) for _ in range(2))
    assert poison(sequence)
    reused = sequence.reusable(ids(200) + ids(50, 1))
    assert reused == 192
    wrong, right = (s.fork(reused, Sequence(model)).state for s in (sequence, clean))
    assert not wrong.linear.memory.equal(right.linear.memory)
    keys, values = wrong.kv[0].rows(0, reused)  # type: ignore[union-attr]
    sound_keys, sound_values = right.kv[0].rows(0, reused)  # type: ignore[union-attr]
    assert keys.equal(sound_keys)
    assert not values.equal(sound_values)
    earlier = [c for c in sequence.state.checkpoints if c.position < reused]
    assert [c.position for c in earlier] == [c.position for c in clean.state.checkpoints if c.position < reused]
    for ours, theirs in zip(earlier, clean.state.checkpoints, strict=False):
        assert ours.linear.memory.equal(theirs.linear.memory)


@pytest.mark.parametrize(("prompt", "speculative"), [(200, False), (INNER - 1, True)])
def test_what_was_not_speculated_on_or_cannot_be_reused_stays_sound(
    model: Model, prompt: int, speculative: bool
) -> None:
    sequence = spoken(model, prompt, speculative=speculative)
    before = sequence.state.fingerprint()
    assert not poison(sequence)
    assert sequence.state.fingerprint() == before
