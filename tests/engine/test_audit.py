"""The audit sees a verify step that differs in one bit, says where, and leaves the step as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.audit import (
    ASIDE,
    SUSPICIOUS,
    Auditor,
    AuditPlan,
    Cadence,
    Step,
    audit_prefix,
    audit_step,
    recompute,
    same,
)
from engine.capture_check import check_captures
from engine.decoding import Carried
from engine.faults import Fault
from engine.model import Model
from engine.reports import AuditReport
from engine.state import SequenceState


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return Model.load(tiny_folder)


def ids(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def filled(model: Model) -> SequenceState:
    state = model.new_state()
    model.prefill(state, ids(40))
    state.checkpoint()
    return state


def test_a_sound_step_passes_and_stands(model: Model) -> None:
    state, plain = filled(model), filled(model)
    block = ids(6, 1)
    rows = model.decode(state, block)
    report = audit_step(model, state, block[:4], rows)
    assert (report.rows, report.mismatch, report.max_abs_diff) == (4, None, 0.0)
    model.commit(state, 4)
    for token in block[:4]:
        model.decode(plain, [token])
        model.commit(plain, 1)
    assert state.fingerprint() == plain.fingerprint()


def test_the_planted_fault_is_found_in_its_first_row(model: Model) -> None:
    state, block = filled(model), ids(4, 1)
    report = audit_step(model, state, block, model.decode(state, block, Fault.VERIFY_IGNORES_CACHE))
    assert report.mismatch == 0
    assert report.max_abs_diff > 1e-3


@pytest.mark.parametrize("part", ["logits", "hidden"])
def test_one_bit_in_one_row_is_enough(model: Model, part: str) -> None:
    state, block = filled(model), ids(4, 1)
    rows = model.decode(state, block)
    changed = getattr(rows, part).clone()
    with torch.inference_mode():
        changed[2, 5] = torch.nextafter(changed[2, 5], torch.tensor(1e9))
    report = audit_step(model, state, block, replace(rows, **{part: changed}))
    assert report.mismatch == 2


def test_nan_is_a_mismatch(model: Model) -> None:
    state, block = filled(model), ids(2, 1)
    rows = model.decode(state, block)
    logits = rows.logits.clone()
    with torch.inference_mode():
        logits[1] = torch.nan
    report = audit_step(model, state, block, replace(rows, logits=logits))
    assert (report.mismatch, report.max_abs_diff) == (1, float("inf"))


def test_nan_in_both_ways_accuses_nobody(model: Model) -> None:
    """The cache is damaged, or the weights are: plain decoding gives no numbers either."""
    state, block = filled(model), ids(4, 1)
    with torch.inference_mode():
        state.linear.memory[0, 0, 0, 0] = torch.nan
    rows = model.decode(state, block)
    assert rows.logits.isnan().any()
    report = audit_step(model, state, block, rows)
    assert (report.mismatch, report.max_abs_diff) == (None, 0.0)
    reference = recompute(model, state, block, rows)
    model.commit(state, len(block))
    assert same(reference.state, state, len(block))


class Watched:
    """A turn's state under an auditor. Tokens are random; the commits are ours."""

    def __init__(self, model: Model, every: int, plan: AuditPlan | None = None, share: float = 1.0) -> None:
        self.model, self.state = model, filled(model)
        self.plan = plan or AuditPlan()
        self.auditor = Auditor(model, every, self.plan, share=share)
        self.pending = 7
        self.spoil: Callable[[SequenceState], None] | None = None

    def step(self, drafted: int, accepted: int, taken: int | None = None, *, asked: bool = False) -> AuditReport | None:
        """taken: another first token than the row's choice."""
        block = [self.pending, *ids(drafted, self.state.length)]
        rows = self.model.decode(self.state, block)
        chosen = [*block[1 : accepted + 1], int(rows.logits[accepted].argmax())]
        new = chosen if taken is None else [taken, *chosen[1:]]
        step = Step(block[: len(new)], rows, new, "ngram", drafted, chosen, lambda logits: list(chosen[: len(logits)]))
        self.auditor.before_commit(self.state, step, asked=asked)
        self.model.commit(self.state, len(new))
        if self.spoil is not None:
            self.spoil(self.state)
        self.pending = new[-1]
        return self.auditor.after_commit(self.state)


def settled(model: Model, every: int, share: float = 1.0) -> Watched:
    """No longer looked at closely."""
    plan = AuditPlan()
    for at in range(400):
        if at < 4:
            plan.thorough.is_due()
        plan.is_new(at, "ngram")
    return Watched(model, every, plan, share)


def audited(watched: Watched, steps: list[tuple[int, int]]) -> list[str]:
    reports = [watched.step(*step) for step in steps]
    assert all(report is None or report.mismatch is None for report in reports)
    return ["-" if report is None else report.compared for report in reports]


def test_the_first_verify_step_is_audited_and_then_one_in_so_many(model: Model) -> None:
    """One that is due waits for rejected drafts, up to a fourth of the period."""
    assert audited(settled(model, 4), [(0, 0), *[(3, 3)] * 10]) == ["-", "rows", *"----", "rows", *"---", "rows"]
    assert audited(settled(model, 8), [(3, 3)] * 8 + [(3, 1), (3, 3)]) == ["rows", *["-"] * 7, "rows", "state"]
    assert audited(settled(model, 0), [(3, 1)] * 3) == ["-"] * 3
    assert audited(settled(model, 1), [(3, 3)] * 3) == ["rows"] * 3


def test_the_first_rejection_and_acceptance_of_a_thorough_turn_are_audited(model: Model) -> None:
    steps = [(3, 3), (3, 3), (3, 2), (0, 0), (3, 1), (3, 3)]
    assert audited(Watched(model, 100), steps) == ["rows", "-", "rows", "state", "-", "-"]
    assert audited(Watched(model, 100), [(3, 0), (3, 3), (3, 3)]) == ["rows", "rows", "-"]


def test_audits_keep_to_their_share_and_wait_for_it(model: Model) -> None:
    """Of 0.1 = one row in ten steps of the usual cost; a step that is due is not forgotten while it waits."""
    watched = settled(model, 1, share=0.1)
    reports = audited(watched, [(1, 1)] * 60)
    audits = 60 - reports.count("-")
    assert 3 <= audits <= 6
    assert reports[0] == "rows"
    costs = watched.plan.costs
    assert audits * (2 + ASIDE) * costs.step_ms <= 0.1 * 60 * costs.step_with("ngram", 1) + 2 * costs.step_ms


def test_what_is_new_and_what_is_looked_at_closely_costs_what_it_costs(model: Model) -> None:
    watched = settled(model, 1, share=0.0001)
    assert audited(watched, [(1, 1)] * 4) == ["rows", "-", "-", "-"]
    watched.plan._known.discard((watched.state.length.bit_length(), "ngram"))
    assert audited(watched, [(1, 1)] * 2) == ["rows", "-"]
    watched.plan.convict()
    suspected = Watched(model, 1, watched.plan, share=0.0001)
    assert audited(suspected, [(1, 1)] * 4) == ["rows"] * 4


def test_lengths_and_drafters_are_new_once() -> None:
    plan = AuditPlan()
    assert [plan.is_new(n, "mtp") for n in (600, 1000, 1024, 2000, 700)] == [True, False, True, False, False]
    assert plan.is_new(600, "ngram")


def test_credit_is_kept_for_a_few_rows_only(model: Model) -> None:
    plan = AuditPlan()
    assert not plan.affordable
    for _ in range(10000):
        plan.earn("ngram", 3, 0.5)
    plan.spend(8)
    assert not plan.affordable
    for _ in range(10000):
        plan.earn("ngram", 3, 0.5)
    for _ in range(7):
        assert plan.affordable
        plan.spend(1)
    assert not plan.affordable, "an audit costs more than its rows"


def test_a_turn_that_is_not_audited_neither_lends_nor_takes(model: Model) -> None:
    """Its steps are none of the time of which audits have their share; one of it may be recomputed all the same."""
    plan = settled(model, 1).plan
    unaudited = Watched(model, 0, plan, share=0.5)
    assert audited(unaudited, [(1, 1)] * 50) == ["-"] * 50
    assert not plan.affordable
    plan.earn("ngram", 1, 0.5)
    assert plan.affordable
    report = unaudited.step(3, 3, asked=True)
    assert report is not None
    assert report.compared == "rows"
    assert plan.affordable


def forgotten(state: SequenceState) -> None:
    state.linear.memory = state.linear.memory + 1.0


def overwritten(state: SequenceState) -> None:
    keys, values = state.kv[0].rows(state.length - 1, state.length)  # type: ignore[union-attr]
    state.kv[0].write(state.length - 1, keys * 1.5, values)


def shifted(state: SequenceState) -> None:
    state.linear.conv[-1] = state.linear.conv[-1].roll(1, 0)


@pytest.mark.parametrize("spoil", [forgotten, overwritten, shifted])
def test_what_a_step_leaves_is_compared(model: Model, spoil: Callable[[SequenceState], None]) -> None:
    watched = Watched(model, 16)
    watched.spoil = torch.inference_mode()(spoil)
    assert watched.step(3, 2) == AuditReport(3, 2, 0.0, "state")


def test_what_shows_only_in_the_next_step_is_compared_there(model: Model) -> None:
    """An older row of the cache that a rollback has hit."""
    watched = Watched(model, 16)
    with torch.inference_mode():
        watched.step(3, 2)
        keys, values = watched.state.kv[0].rows(30, 31)  # type: ignore[union-attr]
        watched.state.kv[0].write(30, keys * 1.5, values)
    report = watched.step(0, 0)
    assert report is not None
    assert (report.rows, report.mismatch, report.compared) == (1, 0, "state")
    assert report.max_abs_diff > 0


def test_a_rewind_ends_what_was_to_be_compared(model: Model) -> None:
    watched = Watched(model, 16)
    assert watched.step(3, 2) is not None
    watched.auditor.rewound()
    assert watched.step(0, 0) is None


def test_a_token_that_is_not_its_rows_choice_is_told_in_any_step(model: Model) -> None:
    watched = settled(model, 16)
    assert watched.step(3, 3) is not None
    assert watched.step(3, 2) is None
    assert watched.step(3, 3, taken=1) == AuditReport(4, 0, 0.0, "choice")


def test_a_mismatch_makes_the_engine_look_closely(model: Model) -> None:
    plan = AuditPlan()
    for cadence in (plan.thorough, plan.prefixes):
        while cadence.is_due():
            pass
    watched = Watched(model, 16, plan)
    watched.spoil = torch.inference_mode()(forgotten)
    watched.step(3, 2)
    assert all(cadence.is_due() for cadence in (plan.thorough, plan.prefixes) for _ in range(SUSPICIOUS))


def test_a_device_without_the_same_bits_proves_nothing(model: Model) -> None:
    plan = AuditPlan()
    plan.exact = False
    watched = Watched(model, 1, plan)
    watched.spoil = torch.inference_mode()(forgotten)
    assert watched.step(3, 2) is None


def test_occasions_are_looked_at_first_then_now_and_then() -> None:
    cadence = Cadence(2, 4)
    assert [cadence.is_due() for _ in range(10)] == [True, True, False, False, True, False, False, False, True, False]


def taken_over(model: Model, tokens: list[int]) -> SequenceState:
    state = model.new_state()
    model.prefill(state, tokens, {64, 128})
    return state.fork(128)


def test_a_sound_prefix_passes_and_stands(model: Model) -> None:
    tokens = ids(150)
    state = taken_over(model, tokens)
    before = state.fingerprint()
    assert audit_prefix(model, state, tokens) == AuditReport(64, None, 0.0, "prefix")
    assert state.fingerprint() == before


@pytest.mark.parametrize("at", [3, 70, 127])
def test_a_wrong_row_of_a_prefix_is_found(model: Model, at: int) -> None:
    tokens = ids(150)
    state = taken_over(model, tokens)
    keys, values = state.kv[0].rows(at, at + 1)  # type: ignore[union-attr]
    state.kv[0].write(at, keys, values * 1.5)
    report = audit_prefix(model, state, tokens)
    assert report is not None and report.mismatch == 0


@pytest.mark.parametrize("part", ["memory", "conv"])
def test_a_wrong_recurrent_state_of_a_prefix_is_found(model: Model, part: str) -> None:
    tokens = ids(150)
    state = taken_over(model, tokens)
    setattr(state.linear, part, getattr(state.linear, part) + 1.0)
    report = audit_prefix(model, state, tokens)
    assert report is not None and report.mismatch == 0


def test_states_of_different_length_are_not_the_same(model: Model) -> None:
    one, other = filled(model), filled(model)
    assert same(one, other, 4)
    model.decode(other, [1])
    model.commit(other, 1)
    assert not same(one, other, 1)


def test_where_the_device_has_no_room_for_a_copy_the_response_goes_on(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def clone(state: SequenceState) -> SequenceState:
        if full:
            raise torch.OutOfMemoryError
        return original(state)

    original = SequenceState.clone
    monkeypatch.setattr(SequenceState, "clone", clone)
    watched = Watched(model, 1)
    assert watched.step(3, 1) is None
    assert watched.step(3, 1) is None
    full = False
    assert watched.step(3, 1) is not None


def test_a_prefix_that_there_is_no_room_to_recompute_is_taken_over(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork(*_: object) -> SequenceState:
        raise torch.OutOfMemoryError

    tokens = ids(150)
    state = taken_over(model, tokens)
    monkeypatch.setattr(SequenceState, "fork", fork)
    Auditor(model, 1, AuditPlan()).begin(state, tokens)


def test_a_capture_that_goes_wrong_is_found(tiny_folder: Path) -> None:
    """It serves verified and plain steps alike, so a reference that replayed it too would agree."""
    model = Model.load(tiny_folder)
    assert check_captures(model)
    for kept in model.captures._kept.values():
        if isinstance(kept.result, Carried):
            kept.replay = partial(_spoilt, kept, kept.replay)  # type: ignore[method-assign]
    state, block = filled(model), ids(2, 1)
    report = audit_step(model, state, block, model.decode(state, block))
    assert report.mismatch == 0


def test_what_an_audit_finds_ends_captures(tiny_folder: Path) -> None:
    """A response that is healed must not be healed by the way that was wrong."""
    model = Model.load(tiny_folder)
    assert check_captures(model)
    watched = Watched(model, 16)
    assert watched.step(3, 1) is not None
    assert model.captures.on
    spoilt = Watched(model, 16)
    spoilt.spoil = torch.inference_mode()(forgotten)
    report = spoilt.step(3, 1)
    assert report is not None and report.mismatch is not None
    assert (model.captures.on, len(model.captures)) == (False, 0)
    assert "audited" in model.captures.why


@torch.inference_mode()
def _spoilt(kept: Any, replay: Callable[[], None]) -> None:
    replay()
    kept.result.x.mul_(1.01)
