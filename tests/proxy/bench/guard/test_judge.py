"""The judge sees every byte that leaked, every difference, and who was blamed last."""

from __future__ import annotations

from typing import Any

import pytest

from policies.modes import DecodeMode
from policies.policy import Policy
from proxy.bench.guard.cells import CELLS, Cell
from proxy.bench.guard.judge import judge
from proxy.bench.guard.tasks import Task
from proxy.bench.guard.trial import Said, Trial, respond
from tests.proxy.played import LS, REQUEST
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text, cut

SPECULATION = CELLS[0]
TASK = Task("go", "call", REQUEST)


async def trial_of(script: Script, mode: DecodeMode = FAST, **policy: Any) -> Trial:
    return await respond(ScriptedBackend(script), TASK, mode, Policy(**policy))


async def sound_of(text: str) -> Said:
    return (await trial_of(Script(text), DecodeMode())).said


async def test_a_fault_that_was_healed() -> None:
    script = Script(f"so it is\n{LS}", fast=f"so it is\n{call_text('ls', pth='src')}")
    verdict = judge(SPECULATION, await trial_of(script), await sound_of(script.plain))
    assert (verdict.detector, verdict.equal, verdict.missed) == ("tool.schema", True, False)
    assert (verdict.leaked_call, verdict.leaked_text, verdict.blamed) == (0, 0, "speculation")
    assert verdict.milliseconds == 2.0
    assert verdict.delay is not None
    assert 0 < verdict.delay <= 8


async def test_text_that_leaked_before_the_trip() -> None:
    script = Script("a b c d e f", fast="a b X Y Z Q", audited={4}, width=2)
    trial = await trial_of(script)
    verdict = judge(SPECULATION, trial, await sound_of(script.plain))
    assert verdict.detector == "drift.audit"
    assert verdict.leaked_text == len("X Y")
    assert not verdict.equal


async def test_a_fault_that_nobody_told() -> None:
    script = Script(LS, fast=call_text("ls", path="lib"))
    verdict = judge(SPECULATION, await trial_of(script), await sound_of(script.plain))
    assert verdict.missed
    assert verdict.leaked_call == len('ls{"path":"lib"}')
    assert (verdict.tripped_at, verdict.delay, verdict.milliseconds) == (None, None, None)


async def test_a_bad_call_that_observing_lets_through_is_leaked() -> None:
    script = Script(LS, fast=call_text("ls", pth="src"))
    verdict = judge(SPECULATION, await trial_of(script, action="observe"), await sound_of(script.plain))
    assert verdict.leaked_call > 0
    assert not verdict.equal


async def test_a_fault_without_effect_is_neither_missed_nor_told() -> None:
    verdict = judge(SPECULATION, await trial_of(Script(LS)), await sound_of(LS))
    assert (verdict.detector, verdict.equal, verdict.missed) == ("", True, False)


async def test_a_cache_fault_is_held_against_what_follows_from_the_last_delivered_token() -> None:
    cell = Cell("keys-unrotated", "mtp+ngram/k4v4", "kv", "full")
    script = Script("a b c d", fast="a X Y d", audited={2}, width=2)
    trial = await trial_of(script)
    sound = await sound_of("a b c d")
    assert judge(cell, trial, sound, trial.said.ids).equal
    assert not judge(cell, trial, sound, trial.said.ids[:-1]).equal
    assert judge(cell, trial, sound, trial.said.ids).leaked_text == len("X")


async def test_a_bad_call_before_the_trip_has_leaked_though_the_rest_was_healed() -> None:
    cell = Cell("keys-unrotated", "mtp+ngram/k4v4", "kv", "full")
    wrong = call_text("ls", path="lib")
    script = Script(f"{LS}\na b c d", fast=f"{wrong}\na X Y d", audited={len(cut(wrong)) + 2}, width=1)
    trial = await trial_of(script)
    assert trial.sent_before[1] == (("ls", '{"path":"lib"}'),)
    verdict = judge(cell, trial, await sound_of(script.plain), trial.said.ids)
    assert verdict.equal
    assert verdict.leaked_call == len('ls{"path":"lib"}')


@pytest.mark.parametrize(("end", "equal"), [("failed: internal", True), ("stop", False)])
async def test_what_cannot_be_healed_must_fail(end: str, equal: bool) -> None:
    cell = Cell("step-hangs", "mtp+ngram/full", "", "honest_failure")
    sound = Said("", "a b c", (), "stop")
    assert judge(cell, Trial(Said("", "a b", (), end)), sound).equal is equal
    assert not judge(cell, Trial(Said("", "a X", (), "failed: internal")), sound).equal


async def test_a_dead_drafter_may_not_be_an_incident() -> None:
    cell = Cell("dead-drafter", "mtp+ngram/full", "", "event")
    calm, told = await trial_of(Script("a b")), await trial_of(Script("a b", fast="a X", audited="all"))
    assert judge(cell, calm, calm.said).equal
    assert not judge(cell, told, told.said).equal
