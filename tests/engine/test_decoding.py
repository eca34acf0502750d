"""Steps over static buffers: nothing of one step reaches another, and what is handed out stays as it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from engine.model import Block, Model
from engine.state import SequenceState


@pytest.fixture(params=["code", "captured"])
def model(request: pytest.FixtureRequest, tiny_folder: Path) -> Model:
    model = Model.load(tiny_folder)
    model.captures.on = request.param == "captured"
    return model


def tokens(count: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def filled(model: Model, count: int, seed: int = 0) -> SequenceState:
    state = model.new_state()
    model.prefill(state, tokens(count, seed))
    return state


def test_rows_stay_as_they_are_when_another_step_follows(model: Model) -> None:
    state, other = filled(model, 30), filled(model, 50, 1)
    for _ in range(3):
        first = model.decode(state, tokens(3, 2))
        kept, parts = (first.logits.clone(), first.hidden.clone()), state.provisional
        assert parts is not None
        memory = [part.clone() for part in (parts.conv, parts.k, parts.u, parts.decay)]
        model.decode(other, tokens(3, 3))
        assert torch.equal(first.logits, kept[0])
        assert torch.equal(first.hidden, kept[1])
        assert all(map(torch.equal, memory, (parts.conv, parts.k, parts.u, parts.decay)))


def test_what_a_step_leaves_in_the_buffers_reaches_no_other_one(model: Model) -> None:
    """NaN in a sequence's rows and states, in all places of a wide step; then sound steps of every shape."""
    sound, fresh, spoilt = filled(model, 30), filled(model, 30), filled(model, 30)
    with torch.inference_mode():
        spoilt.linear.memory.fill_(torch.nan)
        spoilt.linear.conv.fill_(torch.nan)
    for deep in (8, 3, 1):
        for _ in range(3):
            block = tokens(deep, deep)
            bad = [Block(spoilt, tokens(8, 1)), Block(spoilt.clone(), tokens(2, 1))]
            assert model.decode_blocks(bad)[0].logits.isnan().all()
            rows = model.decode(sound, block)
            with model.captures.paused():
                wanted = model.decode(fresh, block)
            assert torch.equal(rows.logits, wanted.logits)
            for state in (sound, fresh):
                model.commit(state, deep)
            assert sound.fingerprint() == fresh.fingerprint()


def test_a_block_with_fewer_rows_than_its_neighbour_commits_only_its_own(model: Model) -> None:
    for _ in range(3):
        short, long, alone = filled(model, 20), filled(model, 40), filled(model, 20)
        rows = model.decode_blocks([Block(short, tokens(2, 1)), Block(long, tokens(7, 2))])
        assert [len(each.logits) for each in rows] == [2, 7]
        model.decode(alone, tokens(2, 1))
        for state in (short, alone):
            with pytest.raises(ValueError, match="2 are provisional"):
                model.commit(state, 3)
            model.commit(state, 2)
        assert short.fingerprint() == alone.fingerprint()


def test_static_buffers_are_counted(model: Model) -> None:
    model.decode(filled(model, 5), [1])
    one = model.decoding.nbytes
    model.decode_blocks([Block(filled(model, 5), [1]), Block(filled(model, 5), [1])])
    assert 0 < one < model.decoding.nbytes
