"""False alarms are counted over all modes and tasks."""

from __future__ import annotations

from proxy.backends.errors import BackendError
from proxy.bench.guard.calm import MODES, bar, run_calm, table
from proxy.bench.guard.tasks import Task
from tests.proxy.played import LS, REQUEST
from tests.proxy.scripted import Script, ScriptedBackend, call_text

TASK = Task("go", "call", REQUEST)


async def test_a_sound_engine_is_calm() -> None:
    found = await run_calm(ScriptedBackend(LS), [TASK], 10)
    assert sum(calm.responses for calm in found) == 10
    assert all(calm.responses >= 2 for calm in found)
    assert sum(calm.tokens for calm in found) > 10
    assert bar(found).holds
    assert [row[-1] for row in table(found).rows] == ["nothing"] * len(MODES)


async def test_every_incident_counts() -> None:
    found = await run_calm(ScriptedBackend(Script(LS, fast=call_text("rm"))), [TASK], len(MODES))
    assert (bar(found).measured, bar(found).holds) == (len(MODES), False)
    assert table(found).rows[0][-1] == "tool.unknown 1"


async def test_a_response_that_failed_is_not_calm() -> None:
    for failing in (
        ScriptedBackend(LS, refuse=BackendError("kv: does not fit")),
        ScriptedBackend(Script(LS, fail_at=2)),
    ):
        found = await run_calm(failing, [TASK], len(MODES))
        assert not bar(found).holds
        assert table(found).rows[0][-1] == "failed: internal 1"
