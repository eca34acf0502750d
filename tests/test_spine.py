"""The promise of the whole: with a planted engine fault, agents get exactly what plain decoding would have sent.

Twenty held-out repair tasks (four of them by default; `specguard bench guard` runs twenty more), the embedded model,
the real guarded session, the real tool loop.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from detectors.tool_schema import ToolSchemas
from examples.embedded_model.evaluate import TOOLS, Run, run_task
from examples.embedded_model.tasks import make_task
from policies.modes import PLAIN, DecodeMode
from proxy.backends.builtin import BuiltinBackend
from proxy.events import Event, Finished, Started, TextDelta, ToolCall
from proxy.incidents import Closure, Incident, Judgement
from proxy.replays.capture import Capture

TASKS = [pytest.param(seed, marks=[] if seed < 4 else pytest.mark.slow) for seed in range(20)]
FAST = DecodeMode("mtp+ngram")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Incidents:
    """Remembers incidents as they are opened and closed."""

    openings: list[Incident] = field(default_factory=list)
    closures: list[Closure] = field(default_factory=list)

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        self.openings.append(incident)

    def closed(self, closure: Closure) -> None:
        self.closures.append(closure)

    def judged(self, judgement: Judgement) -> None:
        raise AssertionError("nobody judges here")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sound() -> AsyncIterator[BuiltinBackend]:
    backend = BuiltinBackend()
    await backend.start()
    yield backend
    await backend.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faulty() -> AsyncIterator[BuiltinBackend]:
    backend = BuiltinBackend(plant="verify-ignores-cache")
    await backend.start()
    yield backend
    await backend.stop()


def seen(run: Run) -> list[Event | str]:
    """What the client saw: text and calls in order, where text was cut does not matter."""
    shown: list[Event | str] = []
    for event in run.events:
        if isinstance(event, TextDelta):
            before = shown.pop() if shown and isinstance(shown[-1], str) else ""
            shown.append(f"{before}{event.text}")
        elif isinstance(event, ToolCall):
            shown.append(event)
        elif isinstance(event, Finished):
            shown.append(ToolCall(-1, "end", event.reason))
    return shown


@pytest.mark.parametrize("seed", TASKS)
async def test_a_fault_in_speculation_is_invisible_to_the_agent(
    sound: BuiltinBackend, faulty: BuiltinBackend, seed: int
) -> None:
    task = make_task(seed, held_out=True)
    quiet, caught = Incidents(), Incidents()
    plain = await run_task(sound, task, PLAIN, quiet)
    healed = await run_task(faulty, task, FAST, caught)
    assert healed.ids == plain.ids
    assert seen(healed) == seen(plain)
    assert healed.repaired == plain.repaired
    schemas = ToolSchemas.compile([(tool.name, tool.parameters) for tool in TOOLS])
    for event in healed.events:
        if isinstance(event, ToolCall):
            assert schemas.check(event.name, json.loads(event.arguments)) is None
    assert sum(isinstance(e, Started) for e in healed.events) == sum(isinstance(e, Finished) for e in healed.events)
    # An agent that goes round in circles is the model's own doing, told apart from what speculation did.
    speculative = [i for i in caught.openings if i.mode_before != "plain" and i.detector != "loop.history"]
    assert speculative, "the fault was never met"
    blamed = {closure.id: closure.culprit for closure in caught.closures}
    assert {blamed[incident.id] for incident in speculative} == {"speculation"}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
async def test_sound_speculation_is_left_alone(sound: BuiltinBackend, seed: int) -> None:
    task = make_task(seed, held_out=True)
    quiet = Incidents()
    plain = await run_task(sound, task, PLAIN, Incidents())
    fast = await run_task(sound, task, FAST, quiet)
    assert fast.ids == plain.ids
    assert not [incident for incident in quiet.openings if incident.detector.startswith("drift")]
    assert not [closure for closure in quiet.closures if closure.culprit == "speculation"]
