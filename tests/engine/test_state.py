"""Rewinding a state: any restorable position has the bits that it had when it was first reached."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from engine.errors import RewindError
from engine.model import Model
from engine.state import MAX_CHECKPOINTS, SequenceState
from tests.engine.zoo import write


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def decode(model: Model, state: SequenceState, tokens: list[int], block: int = 1) -> list[str]:
    """Decodes tokens in blocks; returns the fingerprint after every block."""
    marks = []
    for at in range(0, len(tokens), block):
        model.decode(state, tokens[at : at + block])
        model.commit(state, len(tokens[at : at + block]))
        marks.append(state.fingerprint())
    return marks


def test_every_decoded_position_can_be_restored(model: Model) -> None:
    state, tokens = model.new_state(), ids(30)
    model.prefill(state, ids(70, 1))
    state.checkpoint()
    marks = [state.fingerprint(), *decode(model, state, tokens)]
    for position in range(100, 69, -1):
        assert state.nearest(position) == position
        state.rewind(position)
        assert state.fingerprint() == marks[position - 70]
        assert state.length == position
    assert decode(model, state, tokens) == marks[1:]


def test_a_checkpoint_of_another_history_is_gone(model: Model) -> None:
    state, other = model.new_state(), ids(20, 9)
    decode(model, state, ids(12))
    state.checkpoint()
    decode(model, state, ids(4))
    state.rewind(6)
    marks = decode(model, state, other)
    state.rewind(15)
    assert state.fingerprint() == marks[15 - 7]


def test_a_random_walk_of_blocks_rejections_and_rewinds(model: Model) -> None:
    """Against a state that only ever decodes: after any history, equal tokens give equal bits."""
    rng, tokens = random.Random(3), ids(120, 2)
    plain, state = model.new_state(), model.new_state()
    for each in (plain, state):
        model.prefill(each, ids(64, 1))
        each.checkpoint()
    marks = [plain.fingerprint(), *decode(model, plain, tokens)]
    for _ in range(60):
        at = state.length - 64
        if rng.random() < 0.3:
            at = rng.randint(0, at)
            state.rewind(64 + at)
        else:
            good = min(rng.randint(1, 8), 120 - at)
            if not good:
                continue
            model.decode(state, tokens[at : at + good] + ids(rng.randint(0, 8 - good), at))
            model.commit(state, good)
            at += good
        if rng.random() < 0.2:
            state.checkpoint()
        assert state.fingerprint() == marks[at]


def test_prefilled_positions_are_restored_at_checkpoints_only(model: Model) -> None:
    state = model.new_state()
    model.prefill(state, ids(50))
    state.checkpoint()
    mark = state.fingerprint()
    model.prefill(state, ids(60, 1))
    assert state.nearest(80) == 50
    with pytest.raises(RewindError) as caught:
        state.rewind(80)
    assert (caught.value.position, caught.value.nearest) == (80, 50)
    assert state.length == 110
    state.rewind(50)
    assert state.fingerprint() == mark
    state.rewind(0)
    assert state.fingerprint() == model.new_state().fingerprint()


def test_without_linear_layers_any_position_is_restored_by_the_cursor(tmp_path: Path) -> None:
    """Prefilled ones too, and without a checkpoint; only what is provisional can be committed."""
    attention = Model.load(write(tmp_path / "model", "qwen3"))
    state, tokens = attention.new_state(), ids(50)
    for count in range(50):
        attention.prefill(state, tokens[count : count + 1])
    whole = attention.new_state()
    attention.prefill(whole, tokens)
    with pytest.raises(ValueError, match="0 are provisional"):
        whole.commit(1)
    attention.decode(whole, ids(3))
    with pytest.raises(ValueError, match="3 are provisional"):
        whole.commit(4)
    attention.commit(whole, 2)
    for position in (51, 50, 49, 17, 1, 0):
        assert whole.nearest(position) == position
        whole.rewind(position)
        assert whole.length == position
        short = attention.new_state()
        if position:
            attention.prefill(short, tokens[:position])
        if position <= 50:
            assert whole.fingerprint() == short.fingerprint()


def test_checkpoints_are_few_and_keep_the_first(model: Model) -> None:
    state = model.new_state()
    for _ in range(MAX_CHECKPOINTS + 5):
        model.prefill(state, ids(3))
        state.checkpoint()
    positions = [c.position for c in state.checkpoints]
    assert len(positions) == MAX_CHECKPOINTS
    assert positions[0] == 0
    assert positions[-1] == state.length
    assert positions == sorted(set(positions))


def test_thinning_spares_pins_and_lies_denser_towards_the_end(model: Model) -> None:
    state = model.new_state()
    state.pins = frozenset({64})
    for _ in range(30):
        model.prefill(state, ids(16))
        state.checkpoint()
    positions = [c.position for c in state.checkpoints]
    assert {0, 64, state.length} <= set(positions)
    gaps = [b - a for a, b in pairwise(positions[2:])]
    assert gaps[-1] < max(gaps)
    assert gaps[0] > gaps[-1]


def test_checkpoints_kept_in_passing_are_those_of_a_prefill_that_stops_there(model: Model) -> None:
    state, tokens = model.new_state(), ids(400)
    model.prefill(state, tokens[:30])
    model.prefill(state, tokens[30:], keep={64, 192, 256, 384, 4096})
    assert [c.position for c in state.checkpoints] == [0, 64, 192, 256, 384]
    for kept in state.checkpoints[1:]:
        other = model.new_state()
        model.prefill(other, tokens[:30])
        model.prefill(other, tokens[30 : kept.position])
        assert torch.equal(kept.linear.memory, other.linear.memory)
        assert torch.equal(kept.linear.conv, other.linear.conv)


def test_a_fork_starts_at_a_checkpoint_and_shares_nothing_that_changes(model: Model) -> None:
    state, tokens = model.new_state(), ids(300)
    model.prefill(state, tokens, keep={128, 256})
    decode(model, state, ids(5, 1))
    mark = state.fingerprint()
    other, fresh = state.fork(128), model.new_state()
    model.prefill(fresh, tokens[:128])
    assert other.fingerprint() == fresh.fingerprint()
    assert decode(model, other, ids(9, 2)) == decode(model, fresh, ids(9, 2))
    other.rewind(128)
    with torch.inference_mode():
        for cache in other.kv:
            cache.keys.fill_(1.0)
    assert state.fingerprint() == mark
    with pytest.raises(RewindError) as caught:
        state.fork(200)
    assert caught.value.nearest == 128


def test_a_long_log_is_folded_into_a_checkpoint(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.state.MAX_LOG", 16)
    state = model.new_state()
    model.prefill(state, ids(10))
    state.checkpoint()
    marks = [state.fingerprint(), *decode(model, state, ids(40, 1))]
    assert len(state.log) <= 17
    restorable = [p for p in range(10, 51) if state.nearest(p) == p]
    assert {10, 50} <= set(restorable)
    assert set(range(42, 51)) <= set(restorable)
    for position in reversed(restorable):
        state.rewind(position)
        assert state.fingerprint() == marks[position - 10]


def test_rejected_garbage_does_not_survive_a_rewind(model: Model) -> None:
    """A fault that wrote NaN far ahead must not reach what is decoded after the rewind."""
    tokens = ids(40, 4)
    state, clean = model.new_state(), model.new_state()
    for each in (state, clean):
        model.prefill(each, ids(20))
        each.checkpoint()
    decode(model, state, tokens)
    with torch.inference_mode():
        for cache in state.kv:
            cache.keys[:, :, 30:60] = cache.values[:, :, 30:60] = torch.nan
    state.rewind(22)
    decode(model, clean, tokens[:2])
    assert decode(model, state, tokens[2:]) == decode(model, clean, tokens[2:])


def test_commit_takes_only_what_is_provisional(model: Model) -> None:
    state = model.new_state()
    with pytest.raises(ValueError, match="0 are provisional"):
        state.commit(1)
    model.decode(state, ids(3))
    with pytest.raises(ValueError, match="3 are provisional"):
        state.commit(4)
    model.commit(state, 2)
    with pytest.raises(ValueError, match="0 are provisional"):
        state.commit(1)


def test_a_clone_is_independent(model: Model) -> None:
    state = model.new_state()
    model.prefill(state, ids(20))
    decode(model, state, ids(4))
    other, mark = state.clone(), state.fingerprint()
    decode(model, other, ids(5, 1))
    assert state.fingerprint() == mark
    assert other.fingerprint() != mark


def test_the_fingerprint_sees_every_part(model: Model) -> None:
    state = model.new_state()
    model.prefill(state, ids(20))
    marks = {state.fingerprint()}
    with torch.inference_mode():
        for tensor in (state.kv[0].keys, state.kv[1].values, state.linear.memory[0], state.linear.conv[1]):
            flat = tensor.view(-1)
            flat[3] = torch.nextafter(flat[3], torch.tensor(9.0))
            marks.add(state.fingerprint())
        state.kv[0].keys[:, :, 20:] = 1.0
    assert len(marks) == 5
    assert state.fingerprint() in marks


def test_bytes_are_counted(model: Model) -> None:
    state = model.new_state()
    empty = state.nbytes
    model.prefill(state, ids(20))
    state.checkpoint()
    filled = state.nbytes
    decode(model, state, ids(3))
    assert empty < filled < state.nbytes
