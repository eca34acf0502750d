"""The MTP drafter keeps its head's cache in step with the sequence through proposals, rejections and rewinds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.drafters.mtp import MtpDrafter
from engine.kv import KVCache
from engine.model import Model
from engine.sampler import SamplingParams, choose
from engine.sequence import Sequence

GREEDY = SamplingParams()


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def begun(model: Model, prompt: list[int], max_chain: int | None = 3) -> tuple[Sequence, MtpDrafter]:
    sequence = Sequence(model)
    drafter = MtpDrafter(model, lambda: sequence.state, 260, max_chain)
    sequence.drafters = {"mtp": drafter}
    sequence.begin(prompt)
    list(sequence.prefill())
    return sequence, drafter


def commit(sequence: Sequence, tokens: list[int]) -> None:
    for token in tokens:
        sequence.commit([token], sequence.decode().hidden, speculative=False)


def expected(model: Model, tokens: list[int], count: int, sampling: SamplingParams = GREEDY) -> list[int]:
    """Drafts for what follows `tokens`, from hidden states that one prefill gives."""
    assert model.mtp is not None
    state = model.new_state()
    hidden = model.prefill(state, tokens)[:-1]
    cache = model.new_state().mtp
    assert cache is not None
    drafts: list[int] = []
    step, logits = model.mtp.fill(cache, 0, tokens[1:], hidden)
    while True:
        drafts += choose(logits, [len(tokens) + len(drafts)], sampling, 260).ids
        if len(drafts) == count:
            return drafts
        step, logits = model.mtp.step(cache, len(tokens) - 2 + len(drafts), drafts[-1], step)


def test_drafts_chain_from_the_pending_token(model: Model) -> None:
    prompt = ids(50)
    _, drafter = begun(model, prompt)
    assert drafter.propose(3) == expected(model, prompt, 3)
    assert drafter.propose(7) == expected(model, prompt, 3), "max_chain is the limit, and asking again changes nothing"
    assert drafter.propose(1) == expected(model, prompt, 1)
    assert drafter.propose(0) == []


def test_drafts_do_not_depend_on_the_way(model: Model) -> None:
    """Proposals after commits, after drafts that were never taken, and after rewinds are those of a fresh start.

    Right after a rewind there may be none: the row before the pending token is only computed with the next step.
    """
    rng = random.Random(4)
    prompt, truth = ids(40), ids(60, 1)
    sequence, drafter = begun(model, prompt)
    done = 0
    for _ in range(40):
        rewound = done > 0 and rng.random() < 0.3
        if rewound:
            done = rng.randint(0, done)
            sequence.rewind(len(prompt) - 1 + done, trusted=rng.random() < 0.5)
        else:
            count = min(rng.randint(1, 4), 60 - done)
            commit(sequence, truth[done : done + count])
            done += count
        if rng.random() < 0.7:
            drafts = drafter.propose(2)
            assert drafts == expected(model, [*prompt, *truth[:done]], 2) or (rewound and not drafts)


def test_rows_never_pile_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does anybody compute logits that no draft needs: `fill` runs for proposals alone."""
    assert model.mtp is not None
    prompt, written, filled = ids(700), [], []
    fill, write = model.mtp.fill, model.mtp.write

    def counted_fill(cache: KVCache, position: int, following: list[int], hidden: Tensor) -> tuple[Tensor, Tensor]:
        filled.append(len(following))
        return fill(cache, position, following, hidden)

    def counted_write(cache: KVCache, position: int, following: list[int], hidden: Tensor) -> None:
        written.append(len(following))
        write(cache, position, following, hidden)

    monkeypatch.setattr(model.mtp, "fill", counted_fill)
    monkeypatch.setattr(model.mtp, "write", counted_write)
    sequence = Sequence(model)
    drafter = MtpDrafter(model, lambda: sequence.state, 260)
    sequence.drafters, drafter.max_queued = {"mtp": drafter}, 200
    sequence.begin(prompt)
    for _ in sequence.prefill():
        assert sum(block.shape[0] for block in drafter._hidden) <= 200
    commit(sequence, ids(10, 1))
    assert (len(written) > 3, filled) == (True, [])
    drafts = drafter.propose(2)
    assert len(filled) == 1  # the second draft is a chained step
    assert max(written + filled) <= model.prefill_rows
    monkeypatch.undo()
    assert drafts == expected(model, [*prompt, *ids(10, 1)], 2)


def test_the_chain_is_as_long_as_a_step_can_verify(model: Model) -> None:
    prompt = ids(50)
    _, drafter = begun(model, prompt, max_chain=None)
    assert drafter.propose(20) == expected(model, prompt, model.rows - 1)


def test_the_first_draft_of_a_row_is_sampled_at_its_own_position(model: Model) -> None:
    assert model.mtp is not None
    prompt = ids(50)
    for seed in range(8):
        _, drafter = begun(model, prompt)
        drafter.sampling = SamplingParams(temperature=1.5, seed=seed)
        state, cache = model.new_state(), model.new_state().mtp
        assert cache is not None
        _, logits = model.mtp.fill(cache, 0, prompt[1:], model.prefill(state, prompt)[:-1])
        assert drafter.propose(1) == choose(logits, [50], drafter.sampling, 260).ids


def test_a_chain_is_sampled_and_written_position_by_position(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.mtp is not None
    prompt, slots = ids(50), list[int]()
    for seed in range(8):
        _, drafter = begun(model, prompt, max_chain=None)
        drafter.sampling = SamplingParams(temperature=1.5, seed=seed)
        assert drafter.propose(5) == expected(model, prompt, 5, drafter.sampling)
    step = model.mtp.step

    def noted(cache: KVCache, position: int, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        slots.append(position)
        return step(cache, position, token, state)

    monkeypatch.setattr(model.mtp, "step", noted)
    drafter.propose(5)
    assert slots == [49, 50, 51, 52], "the slot of the last row is 48: (token 49, hidden state 48)"


def test_a_history_without_rows_yields_no_draft(model: Model) -> None:
    _, drafter = begun(model, [7])
    assert drafter.propose(3) == []


def test_sampled_drafts_use_the_noise_of_their_positions(model: Model) -> None:
    """With the target's own logits the draft would be the target's token: noise is shared by seed and position."""
    prompt = ids(50)
    _, drafter = begun(model, prompt)
    greedy = drafter.propose(3)
    seen = set()
    for seed in range(6):
        drafter.sampling = SamplingParams(temperature=1.5, seed=seed)
        seen.add(tuple(drafter.propose(3)))
        assert tuple(drafter.propose(3)) in seen
    assert len(seen) > 1
    assert all(token < 260 for drafts in seen for token in drafts)
    drafter.sampling = SamplingParams()
    assert drafter.propose(3) == greedy


def test_what_it_cannot_do_is_said(model: Model, untied_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no mtp\.\* tensors"):
        MtpDrafter(Model.load(untied_folder), lambda: model.new_state(), 260)
    _, drafter = begun(model, ids(5))
    with pytest.raises(ValueError, match="hidden states"):
        drafter.extend([1], None)


def test_rows_are_copied(model: Model) -> None:
    sequence, drafter = begun(model, ids(20))
    rows = sequence.decode()
    hidden = rows.hidden.clone()
    sequence.commit([9], hidden, speculative=False)
    with torch.inference_mode():
        hidden.zero_()
    assert drafter.propose(2) == expected(model, [*ids(20), 9], 2)
