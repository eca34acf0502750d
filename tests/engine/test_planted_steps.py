"""A fault of speculation strikes at the commit that it is meant for; none, or another one, changes nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from engine.faults import Fault
from engine.model import Model
from engine.planted_steps import PlantedSteps, in_argument
from engine.state import SequenceState


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def stepped(model: Model, fault: Fault | None, rows: int, count: int) -> SequenceState:
    """A state behind a step of so many rows, of which `count` are committed."""
    state = model.new_state()
    model.prefill(state, ids(40))
    state.checkpoint()
    planted = PlantedSteps(fault)
    model.decode(state, ids(rows, 1), fault)
    planted.before_commit(state, count)
    model.commit(state, count)
    planted.after_commit(state)
    return state


STATES = {Fault.RECURRENT_NOT_ROLLED_BACK, Fault.STALE_RECURRENT_SLOT}
INSIDE = {Fault.VERIFY_IGNORES_CACHE}
"""Strike in the rows themselves."""


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in INSIDE])
@pytest.mark.parametrize(("rows", "count"), [(1, 1), (5, 1), (5, 3), (5, 5)])
def test_the_state_is_spoiled_where_the_fault_says(model: Model, fault: Fault, rows: int, count: int) -> None:
    strikes = {
        Fault.RECURRENT_NOT_ROLLED_BACK: count < rows,
        Fault.STALE_RECURRENT_SLOT: count > 1,
    }.get(fault, False)
    spoiled, sound = stepped(model, fault, rows, count), stepped(model, None, rows, count)
    assert (spoiled.fingerprint() != sound.fingerprint()) == strikes


def test_a_stale_slot_holds_the_state_behind_the_first_row(model: Model) -> None:
    stale, first = stepped(model, Fault.STALE_RECURRENT_SLOT, 5, 4), stepped(model, None, 5, 1)
    sound = stepped(model, None, 5, 4)
    assert stale.linear.memory.equal(first.linear.memory)
    assert stale.linear.conv.equal(sound.linear.conv)


def test_what_was_not_rolled_back_is_the_state_with_all_rows(model: Model) -> None:
    contaminated, full = stepped(model, Fault.RECURRENT_NOT_ROLLED_BACK, 5, 2), stepped(model, None, 5, 5)
    assert contaminated.linear.memory.equal(full.linear.memory)
    assert contaminated.linear.conv.equal(full.linear.conv)


def test_rejected_rows_keep_their_slots(model: Model) -> None:
    """The next step's first rows are not stored where rejected ones stand."""
    spoiled, sound = stepped(model, None, 5, 2), stepped(model, None, 5, 2)
    before = [cache.rows(42, 45) for cache in spoiled.kv]  # type: ignore[union-attr]
    assert spoiled.rejected == 3
    model.decode(spoiled, ids(4, 2), Fault.REJECTED_DRAFTS_KEPT)
    model.decode(sound, ids(4, 2))
    for cache, right, (keys, values) in zip(spoiled.kv, sound.kv, before, strict=True):
        after = cache.rows(42, 46)  # type: ignore[union-attr]
        assert after[0][:3].equal(keys) and after[1][:3].equal(values)
        assert not after[0][:3].equal(right.rows(42, 45)[0])  # type: ignore[union-attr]
        assert after[0][3].abs().sum() > 0


def test_nothing_is_left_of_rejected_rows_after_a_rewind(model: Model) -> None:
    state = stepped(model, None, 5, 2)
    state.rewind(40)
    assert state.rejected == 0


def told(more: Sequence[int]) -> str:
    return "<parameter=path>\n" + "".join("abc<"[token % 4] for token in more)


LOGITS = torch.tensor([[0.0, 5.0, 4.0, 4.5], [0.0, 1.0, 5.0, 0.5], [5.0, 4.0, 0.0, 0.0]])


def test_the_runner_up_is_taken_once_inside_an_argument() -> None:
    planted = PlantedSteps(Fault.FLIPPED_ARGUMENT)
    assert planted.chosen([1], 1, LOGITS, told, {3}) == [1]  # a plain step
    assert planted.chosen([1, 2, 0], 3, LOGITS, lambda more: "no call", {3}) == [1, 2, 0]
    assert planted.chosen([1, 2, 0], 3, LOGITS, told, {3}) == [2, 2, 0]  # 3 is special
    assert planted.chosen([1, 2, 0], 3, LOGITS, told, {3}) == [1, 2, 0]


def test_a_flip_leaves_the_markup_as_it_is() -> None:
    planted = PlantedSteps(Fault.FLIPPED_ARGUMENT)
    assert planted.chosen([3, 2, 0], 1, LOGITS, told, {9}) == [3, 2, 0]  # row 0 says "<"
    assert planted.chosen([1, 2, 0], 1, LOGITS, told, {9}) == [2, 2, 0]  # the runner-up would


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<parameter=path>\nsrc/a", True),
        ("<parameter=path", False),
        ("<parameter=path>\nsrc\n</parameter>\n", False),
        ("<parameter=a>\nx</parameter><parameter=b>\n", True),
        ("text", False),
    ],
)
def test_what_is_inside_an_argument(text: str, inside: bool) -> None:
    assert in_argument(text) == inside


@pytest.mark.parametrize("fault", [None, *Fault])
def test_drafts_are_never_right_with_a_dead_drafter_alone(fault: Fault | None) -> None:
    drafts = PlantedSteps(fault).drafted([4, 5], {8, 7})
    assert drafts == ([7, 7] if fault is Fault.DEAD_DRAFTER else [4, 5])
    assert PlantedSteps(fault).drafted([], {7}) == []
