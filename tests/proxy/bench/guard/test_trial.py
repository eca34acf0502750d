"""A trial holds what the client got, and what had left when the first incident opened."""

from __future__ import annotations

from policies.policy import Policy
from proxy.backends.errors import BackendError, Overloaded
from proxy.bench.guard.tasks import Task
from proxy.bench.guard.trial import respond, started
from tests.proxy.played import LS, REQUEST
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text, token_ids

TASK = Task("go", "call", REQUEST)


async def test_what_the_client_got() -> None:
    text = f"<think>hm</think>I look.\n{LS}"
    trial = await respond(ScriptedBackend(text), TASK, FAST, Policy())
    said = trial.said
    assert (said.thinking, said.text, said.calls, said.end) == (
        "hm",
        "I look.",
        (("ls", '{"path":"src"}'),),
        "tool_calls",
    )
    assert said.ids == token_ids(text)
    assert not trial.incidents


async def test_what_had_left_when_it_tripped() -> None:
    script = Script(f"{LS} then {LS}", fast=f"{LS} then {call_text('rm')}", width=1)
    trial = await respond(ScriptedBackend(script), TASK, FAST, Policy())
    assert trial.sent_before == (" then", (("ls", '{"path":"src"}'),))
    assert [incident.detector for incident in trial.incidents] == ["tool.unknown"]
    assert [closure.id for closure in trial.closures] == [trial.incidents[0].id]


async def test_failures_before_and_after_the_first_byte() -> None:
    refused = await respond(ScriptedBackend(refuse=Overloaded("full")), TASK, FAST, Policy())
    assert refused.said.end == "failed: overloaded"
    broken = await respond(ScriptedBackend(Script("a b c", fail_at=2, width=1)), TASK, FAST, Policy())
    assert (broken.said.text, broken.said.end) == ("a b", "failed: internal")


async def test_a_backend_is_stopped_whatever_happened() -> None:
    backend = ScriptedBackend("a")
    try:
        async with started(backend):
            assert backend.running
            raise BackendError("no")
    except BackendError:
        pass
    assert not backend.running
