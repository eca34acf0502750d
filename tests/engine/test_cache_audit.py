"""The audit of a cache finds what is wrong where it is wrong, accuses the right reader, and leaves steps alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.cache_audit import CYCLE, EVERY, FIRST, SEALS_EVERY, CacheAudit, misread
from engine.codecs.spec import SPECS
from engine.compressed import CompressedCache
from engine.engine import EMBEDDED, Engine, EngineOptions
from engine.faults import Fault
from engine.model import Model
from engine.reports import CacheFault, StepReport
from engine.turn import TurnOptions
from tests.engine.test_lossless import ids


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(EMBEDDED)


def run(fault: Fault | None, codec: str = "k4v4", count: int = 24, **options: object) -> list[StepReport]:
    """A response of random text, so that drafts are rare and fail."""
    engine = Engine(EMBEDDED, EngineOptions(fault=fault, force_low_bits=True))
    engine.tokenizer.eos_ids = frozenset()
    wanted = replace(TurnOptions(codec=codec, max_tokens=count), **options)  # type: ignore[arg-type]
    turn = engine.open(ids(330, 1), wanted)
    list(turn.sequence.prefill())
    steps = []
    while not turn.ended:
        steps.append(turn.step())
    return steps


def faults(steps: list[StepReport]) -> list[CacheFault]:
    return [fault for step in steps if step.cache for fault in step.cache.faults]


@pytest.mark.parametrize("codec", SPECS)
def test_a_sound_cache_has_no_fault(codec: str) -> None:
    steps = run(None, codec, 90)
    assert faults(steps) == []
    reports = [step.cache for step in steps if step.cache is not None]
    assert sum(report.rows for report in reports) == (330 + 90) // 64 * 64
    assert reports[0].keys is not None
    assert reports[0].keys.bits == SPECS[codec].key_bits
    assert reports[1].keys is None
    assert [report.tiles for report in reports] == [1 if n % SEALS_EVERY == 0 else 0 for n in range(90)]
    assert sum(report.probed for report in reports) == FIRST + len([n for n in range(90) if n % EVERY == 0]) - 1


def test_full_caches_are_not_looked_at() -> None:
    assert all(step.cache is None for step in run(None, "full", 4))


@pytest.mark.parametrize(
    ("fault", "check", "side"),
    [
        (Fault.KEYS_UNROTATED, "read-back", "keys"),
        (Fault.CODES_SCALED, "read-back", "keys"),
        (Fault.VALUES_HALVED, "reading", "both"),
        (Fault.CODES_DAMAGED, "seal", "both"),
    ],
)
@pytest.mark.parametrize("codec", SPECS)
def test_each_fault_is_found_by_its_check_in_the_first_steps(codec: str, fault: Fault, check: str, side: str) -> None:
    found = faults(run(fault, codec, 3))
    assert {(one.check, one.side) for one in found} == {(check, side)}
    assert all(not one.measured <= one.limit for one in found)


def test_every_stored_code_is_compared_within_a_cycle(model: Model) -> None:
    """One byte of one block, wherever it is."""
    clean = model.new_state("k4v4")
    model.prefill(clean, ids(1100, 2))
    for layer, tile in ((0, 0), (1, 3), (2, 4)):
        state = clean.clone()
        cache, audit = state.kv[layer], CacheAudit()
        assert isinstance(cache, CompressedCache)
        with torch.inference_mode():
            cache.value_codes[tile, 1, 3, 0] ^= 1
        reports = [audit.look(state.kv, state.length) for _ in range(CYCLE)]
        found = [fault for report in reports if report for fault in report.faults]
        assert found
        assert {(one.check, one.layer, one.row) for one in found} == {("seal", layer, tile * 256)}


def test_a_number_that_is_none_is_found(model: Model) -> None:
    state = model.new_state("k4v4")
    model.prefill(state, ids(100, 2))
    cache = state.kv[1]
    assert isinstance(cache, CompressedCache)
    keys = torch.randn(28, 2, 64)
    keys[3, 1, 7] = torch.nan
    cache.write(100, keys, torch.randn(28, 2, 64))
    cache.settle(128)
    report = CacheAudit().look(state.kv, 128)
    assert report is not None
    assert [(one.check, one.layer, one.side, one.measured) for one in report.faults] == [("finite", 1, "keys", 1.0)]


def test_what_was_looked_at_is_not_told_again(model: Model) -> None:
    state = model.new_state("k4v4")
    model.prefill(state, ids(200, 2))
    audit = CacheAudit()
    reports = [audit.look(state.kv, 200) for _ in range(2)]
    assert [report and report.rows for report in reports] == [192, 0]


def test_a_fork_takes_over_what_nobody_has_looked_at(model: Model) -> None:
    state = model.new_state("k4v4")
    model.prefill(state, ids(200, 2), keep=(128,))
    report = CacheAudit().look(state.fork(128).kv, 128)
    assert report is not None
    assert report.rows == 192


def test_it_changes_no_bit_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> list[tuple[int, float]]:
        return [(token.id, token.logprob) for step in run(None, count=40) for token in step.tokens]

    watched = outcome()
    monkeypatch.setattr(CacheAudit, "arm", lambda *_, **__: None)
    monkeypatch.setattr(CacheAudit, "look", lambda *_: None)
    assert outcome() == watched


class TestWhoIsAccused:
    """A block and its rows alone differ: the second reading says which of them reads the codes wrongly."""

    def steps(self, fault: Fault, audit_every: int) -> list[StepReport]:
        engine = Engine(EMBEDDED, EngineOptions(fault=fault))
        engine.tokenizer.eos_ids = frozenset()
        turn = engine.open(
            ids(30, 1) * 8, TurnOptions(codec="k4v4", drafter="mtp", max_tokens=24, audit_every=audit_every)
        )
        list(turn.sequence.prefill())
        found = []
        while not turn.ended:
            found.append(turn.step())
        return found

    def test_a_block_that_ignores_the_cache_is_speculations_fault(self) -> None:
        for every in (1, 0):  # not even due: the second reading asks for the audit
            steps = self.steps(Fault.VERIFY_IGNORES_CACHE, every)
            assert any(step.audit is not None and step.audit.mismatch is not None for step in steps)
            assert faults(steps) == []

    def test_a_single_row_that_misreads_values_is_the_caches_fault(self) -> None:
        steps = self.steps(Fault.VALUES_HALVED, 1)
        assert not any(step.audit is not None and step.audit.mismatch is not None for step in steps)
        assert faults(steps)[0].check == "reading"


def test_a_sound_state_is_not_misread(model: Model) -> None:
    state = model.new_state("k4v4")
    model.prefill(state, ids(200, 2))
    before = state.fingerprint()
    assert misread(model, state, ids(5, 3), 204) == []
    assert state.fingerprint() == before
