"""Incidents of the real engine are judged by themselves, each with the layer that its planted fault is in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from detectors.finding import Grade
from detectors.period import Threshold, Thresholds
from detectors.settings import DEFAULT
from policies.axes import AxesVerdict
from policies.blame import Culprit
from policies.modes import PLAIN, DecodeMode
from policies.policy import Policy
from proxy.backends.base import Rerun
from proxy.backends.builtin import BuiltinBackend
from proxy.backends.errors import BackendError
from proxy.conversation import ChatRequest, Demands, Message, Tool
from proxy.events import Event
from proxy.guard.session import GuardedSession
from proxy.incidents import Judgement
from proxy.replays.automatic import (
    MAX_BYTES,
    MAX_PREEMPTED,
    MAX_REMEMBERED,
    AutomaticReplay,
    AutomaticSettings,
    as_judgement,
    tripped_of,
)
from proxy.replays.runs import Judged
from proxy.sinks import Sinks
from tests.proxy.live import Gate
from tests.proxy.played import REQUEST, Sink
from tests.proxy.replayable import LOOP, SOUND, Replayable
from tests.proxy.reruns import AT_ONCE, FAST, guarded, judged, poison, seeded, started, turns
from tests.proxy.scripted import Script, ScriptedBackend

CODED = DecodeMode("mtp+ngram", "k4v4")


def verdict(sink: Sink) -> tuple[str, str]:
    """The one verdict of all that tripped: what is wrong in plain decoding too trips again there."""
    assert sink.judgements, "nothing tripped, or nothing was judged"
    for judgement in sink.judgements:
        assert judgement.axes and judgement.method == "axes" and judgement.milliseconds > 0
    (found,) = {(judgement.culprit, judgement.certainty) for judgement in sink.judgements}
    return found


SLOW = pytest.mark.slow
PLANTS = [
    ("verify-ignores-cache", {"audit_every": 0}, FAST, 0.0, ("speculation", "certain")),
    ("keys-scaled", {"audit_every": 0, "shadow_every": 8}, FAST, 0.0, ("kv", "certain")),
    pytest.param("verify-ignores-cache", {"audit_every": 0}, CODED, 0.8, ("speculation", "certain"), marks=SLOW),
    pytest.param("verify-ignores-cache", {}, FAST, 0.0, ("speculation", "certain"), marks=SLOW),
    pytest.param("recurrent-not-rolled-back", {"audit_every": 0}, FAST, 0.0, ("speculation", "certain"), marks=SLOW),
    pytest.param("stale-recurrent-slot", {"audit_every": 0}, FAST, 0.0, ("speculation", "certain"), marks=SLOW),
    pytest.param("rejected-drafts-kept", {"audit_every": 0}, FAST, 0.0, ("speculation", "certain"), marks=SLOW),
    pytest.param("tile-lost", {"audit_every": 0, "shadow_every": 8}, FAST, 0.0, ("kv", "certain"), marks=SLOW),
    pytest.param("values-halved", {}, CODED, 0.0, ("kv", "certain"), marks=SLOW),
    pytest.param("codes-damaged", {}, CODED, 0.0, ("kv", "certain"), marks=SLOW),
    pytest.param("nan-at-position", {}, FAST, 0.0, ("model", "likely"), marks=SLOW),
]


@pytest.mark.parametrize(("plant", "options", "mode", "temperature", "expected"), PLANTS)
async def test_a_planted_fault_is_found_in_its_layer(
    plant: str, options: dict[str, int], mode: DecodeMode, temperature: float, expected: tuple[str, str]
) -> None:
    async with started(plant, **options) as backend:
        sink = await judged(backend, [seeded(each, temperature, 5) for each in turns()], mode)
        assert verdict(sink) == expected


@SLOW
async def test_codes_that_no_reader_expects_are_the_codecs_fault() -> None:
    """Keys are coded unrotated; the engine reads its codes back, which is a measurement."""
    async with started("keys-unrotated", audit_every=0) as backend:
        assert verdict(await judged(backend, turns(), CODED)) == ("kv", "certain")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sound() -> AsyncIterator[BuiltinBackend]:
    async with started(audit_every=0, shadow_every=8) as backend:
        yield backend


on_one_loop = pytest.mark.asyncio(loop_scope="module")


@on_one_loop
async def test_a_poisoned_prefix_is_found_while_it_is_kept(sound: BuiltinBackend) -> None:
    """Found by what the model says after it. The rewind refuses the prefix, so it is put back for the replay."""
    sink, replays = await after_poison(sound)
    kept = sound.engine.prefixes._kept[:]
    poison(sound)
    await replays.settled()
    assert verdict(sink) == ("prefix", "certain")
    assert sound.engine.prefixes._kept == kept
    assert [row["prefix"] for row in sink.judgements[0].axes] == ["cold", "kept"]


@on_one_loop
async def test_a_poisoned_prefix_that_is_gone_is_not_reproduced(sound: BuiltinBackend) -> None:
    """The closed record's verdict stands."""
    sink, replays = await after_poison(sound)
    sound.engine.prefixes.clear()
    await replays.settled()
    judgement = sink.judgements[0]
    assert (judgement.culprit, judgement.certainty) == (sink.closures[0].culprit, sink.closures[0].certainty)
    assert "prefix as it was kept then" in judgement.note
    assert [row["prefix"] for row in judgement.axes if row["cached"]] == ["made", "made"]


async def after_poison(backend: BuiltinBackend) -> tuple[Sink, AutomaticReplay]:
    """An incident of a response that took over a poisoned prefix; it is not judged before the next `settled`."""
    backend.engine.prefixes.clear()
    first, second, *_ = turns()
    sink, idle = Sink(), asyncio.Event()
    await guarded(backend, first, sink)
    assert not sink.incidents
    poison(backend)
    replays = AutomaticReplay(backend, sink.judged, idle, settings=AT_ONCE)
    await guarded(backend, second, Sinks((sink, replays)))
    assert sink.incidents
    idle.set()
    return sink, replays


NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 7, "maximum": 7}, "minItems": 90}


def strict(copies: int, coverage: int) -> AutomaticSettings:
    """Loops are found sooner than by right."""
    threshold = Thresholds(None, Threshold(copies, coverage), None)
    loops = replace(DEFAULT.loops, prose=threshold, code=threshold, arguments=threshold)
    return replace(AT_ONCE, detectors=replace(DEFAULT, loops=loops))


@on_one_loop
async def test_a_filter_that_forces_a_loop_is_to_blame_for_it(sound: BuiltinBackend) -> None:
    """Without it the model calls the tool as it knows it, which is refused, but is no loop."""
    parameters = {"type": "object", "properties": {"lines": NUMBERS}, "required": ["lines"]}
    tools = (Tool("read_file", parameters=parameters),)
    request = replace(turns()[0], demands=Demands(must_call=True), tools=tools, max_tokens=170)
    sink = await judged(sound, [request], settings=strict(3, 64))
    assert sink.incidents[0].detector == "loop.period"
    assert verdict(sink) == ("filter", "certain")


def looping(request: ChatRequest) -> ChatRequest:
    """The model cannot but say the same again: nothing else has a chance, and it may not end."""
    biased = ((100, 60.0), (101, 60.0), (102, 60.0))
    return replace(request, max_tokens=90, sampling=replace(request.sampling, logit_bias=biased))


@on_one_loop
async def test_a_loop_of_the_model_is_the_models(sound: BuiltinBackend) -> None:
    sink = await judged(sound, [looping(turns()[0])], settings=strict(3, 64))
    assert sink.incidents[0].detector == "loop.period"
    assert verdict(sink) == ("model", "certain")
    assert len(sink.judgements[0].axes) == 1  # one run says it


@on_one_loop
@pytest.mark.parametrize("mode", [FAST, CODED])
async def test_a_false_alarm_of_a_sound_engine_blames_no_layer(sound: BuiltinBackend, mode: DecodeMode) -> None:
    """A call that any reader would call good, refused by a schema that the model was not told of."""
    request = turns()[0]
    tools = tuple(
        replace(tool, parameters={"type": "object", "properties": {"path": {"type": "string", "maxLength": 1}}})
        for tool in request.tools
    )
    sink = await judged(sound, [replace(request, tools=tools)], mode)
    assert sink.incidents[0].detector == "tool.schema"
    assert verdict(sink) == ("model", "certain")


# Without a model: when it runs, what it remembers, and what it leaves behind.


def faulty(rerun: Rerun) -> str:
    return LOOP if rerun.mode.speculates else SOUND


class Server:
    """A guard with automatic replays over a scripted backend; the test says when nobody is served."""

    def __init__(self, backend: ScriptedBackend, settings: AutomaticSettings = AT_ONCE) -> None:
        self.backend, self.sink, self.idle, self.stopping = backend, Sink(), asyncio.Event(), False
        self.replays = AutomaticReplay(backend, self.sink.judged, self.idle, lambda: self.stopping, settings)
        self.sinks = Sinks((self.sink, self.replays))

    async def respond(self, **changes: object) -> list[Event]:
        request = replace(REQUEST, **changes)  # type: ignore[arg-type]
        session = GuardedSession(request, self.backend, Policy(), self.sinks, FAST)
        return [event async for event in session.events()]


LOOPING = Script(SOUND, fast=LOOP)


async def test_a_fallback_is_judged_when_nobody_is_served() -> None:
    backend = Replayable(faulty, LOOPING)
    server = Server(backend)
    await server.respond()
    assert len(server.sink.closures) == 1
    for _ in range(50):
        await asyncio.sleep(0)
    assert not backend.reruns and len(server.replays) == 1  # the response is still in flight, as far as anybody knows
    server.idle.set()
    await server.replays.settled()
    assert verdict(server.sink) == ("speculation", "certain")
    assert server.sink.judgements[0].id == server.sink.incidents[0].id
    assert len(server.replays) == 0
    await server.replays.close()


async def test_what_was_not_rewound_is_not_run_again() -> None:
    backend = Replayable(faulty, SOUND)
    server = Server(backend)
    server.idle.set()
    await server.respond()
    assert not server.sink.incidents and len(server.replays) == 0
    plain = Server(Replayable(faulty, LOOP + "again and " * 400))
    plain.idle.set()
    session = GuardedSession(REQUEST, plain.backend, Policy(), plain.sinks, PLAIN)
    assert [event async for event in session.events()]
    assert plain.sink.incidents[0].action == "end" and len(plain.replays) == 0


async def test_a_backend_that_cannot_makes_it_deaf() -> None:
    server = Server(ScriptedBackend(LOOPING))
    server.idle.set()
    await server.respond()
    assert server.sink.incidents and len(server.replays) == 0


async def test_clients_interrupt_it_and_it_begins_again() -> None:
    backend = Replayable(faulty, LOOPING, preempt=MAX_PREEMPTED)
    server = Server(backend)
    server.idle.set()
    await server.respond()
    await server.replays.settled()
    assert verdict(server.sink) == ("speculation", "certain")


async def test_a_server_that_is_never_idle_long_enough_is_left_alone() -> None:
    backend = Replayable(faulty, LOOPING, preempt=MAX_PREEMPTED + 1)
    server = Server(backend)
    server.idle.set()
    await server.respond()
    await server.replays.settled()
    judgement = server.sink.judgements[0]
    assert "clients came first" in judgement.note and judgement.axes == ()
    assert (judgement.culprit, judgement.certainty) == ("speculation", "certain")  # as it was closed


async def test_a_canary_is_no_client_and_may_end_first() -> None:
    backend = Replayable(faulty, LOOPING, preempt=1000)
    server, spare = Server(backend), asyncio.Lock()
    replays = AutomaticReplay(backend, server.sink.judged, server.idle, settings=AT_ONCE, spare=spare)
    server.sinks = Sinks((server.sink, replays))
    server.idle.set()
    await spare.acquire()  # a canary computes, so every run would be interrupted
    await server.respond()
    await asyncio.sleep(0.05)
    backend.preempt = 0
    spare.release()
    await replays.settled()
    assert verdict(server.sink) == ("speculation", "certain")
    assert not spare.locked()


async def test_nothing_begins_while_the_server_drains() -> None:
    backend = Replayable(faulty, LOOPING)
    server = Server(backend)
    await server.respond()
    server.stopping = True
    server.idle.set()
    await server.replays.settled()
    assert not backend.reruns and not server.sink.judgements


async def test_closing_ends_a_run_and_leaves_no_task() -> None:
    gate = Gate(3)
    backend = Replayable(faulty, LOOPING, pace=gate)
    server = Server(backend)
    server.idle.set()
    before = asyncio.all_tasks()
    await server.respond()
    await gate.used_up()
    await server.replays.close()
    assert backend.runs[0].closes == 1 and not server.sink.judgements
    assert asyncio.all_tasks() == before
    await server.replays.close()
    await server.respond()  # and afterwards it hears nothing
    assert len(server.replays) == 0


async def test_an_error_in_a_run_is_logged_and_the_next_incident_is_judged() -> None:
    for error in (BackendError("no room"), RuntimeError("bug")):
        backend = Replayable(faulty, LOOPING, refuse_runs=error)
        server = Server(backend)
        server.idle.set()
        with capture_logs() as logs:
            await server.respond()
            await server.replays.settled()
        assert not server.sink.judgements
        assert [entry["event"] for entry in logs if entry["event"].startswith("replay")] == ["replay.failed"]
        backend._refuse_runs = None
        await server.respond()
        await server.replays.settled()
        assert len(server.sink.judgements) == 1


async def test_what_is_remembered_is_bounded() -> None:
    server = Server(Replayable(faulty, LOOPING))
    for _ in range(MAX_REMEMBERED + 3):
        await server.respond()
    assert len(server.replays) == MAX_REMEMBERED
    assert len(server.sink.incidents) == MAX_REMEMBERED + 3
    opened, kept = server.sink.incidents[-1], server.sink.captures[-1]
    assert kept is not None
    half = replace(kept, request=replace(kept.request, messages=(Message("user", "x" * (MAX_BYTES // 4)),)))
    server.replays.opened(replace(opened, id="inc_half"), half)
    assert len(server.replays) == MAX_REMEMBERED
    server.replays.opened(replace(opened, id="inc_other_half"), half)
    assert len(server.replays) == 1  # the older ones had to go
    whole = replace(half, request=replace(half.request, messages=half.request.messages * 2))
    server.replays.opened(replace(opened, id="inc_whole"), whole)
    assert len(server.replays) == 1
    await server.replays.close()


async def test_who_was_judged_by_hand_is_not_judged_again() -> None:
    server = Server(Replayable(faulty, LOOPING))
    await server.respond()
    server.sinks.judged(Judgement(server.sink.incidents[0].id, "kv", "likely"))
    server.idle.set()
    await server.replays.settled()
    assert len(server.sink.judgements) == 1


async def test_who_is_judged_by_hand_meanwhile_is_not_judged_again() -> None:
    gate = Gate(3)
    backend = Replayable(faulty, LOOPING, pace=gate)
    server = Server(backend)
    server.idle.set()
    await server.respond()
    await gate.used_up()
    server.sinks.judged(Judgement(server.sink.incidents[0].id, "kv", "likely"))
    gate.let(10_000)
    await server.replays.settled()
    assert [judgement.culprit for judgement in server.sink.judgements] == ["kv"]


async def test_a_secret_that_was_taken_out_leaves_nothing_to_run() -> None:
    server = Server(Replayable(faulty, LOOPING))
    await server.respond()
    opened, kept = server.sink.incidents[0], server.sink.captures[0]
    assert kept is not None
    other = AutomaticReplay(server.backend, server.sink.judged, server.idle)
    for lacking in (None, replace(kept, prompt_ids=()), replace(kept, redacted=("password",))):
        other.opened(opened, lacking)
    other.opened(replace(opened, detector="stall.silence"), kept)
    assert len(other) == 0
    await server.replays.close()


def test_a_trouble_is_what_the_record_says() -> None:
    backend = ScriptedBackend()
    assert tripped_of("loop.period", "fallback", 7, backend).grade is Grade.FALLBACK
    assert tripped_of("loop.period", "abort", 7, backend).exact
    with pytest.raises(KeyError):
        tripped_of("loop.period", "worst", 7, backend)


@pytest.mark.parametrize(
    ("closed", "runs", "stands"),
    [
        (("speculation", "certain"), (Culprit.UNKNOWN, "none"), ("speculation", "certain")),
        (("speculation", "certain"), (Culprit.MODEL, "likely"), ("speculation", "certain")),
        (("speculation", "certain"), (Culprit.PREFIX, "certain"), ("prefix", "certain")),
        (("kv", "likely"), (Culprit.MODEL, "likely"), ("model", "likely")),
        (("unknown", "none"), (Culprit.KV, "likely"), ("kv", "likely")),
        (("kv", "likely"), (None, "none"), ("kv", "likely")),
    ],
)
def test_runs_overrule_a_record_only_if_they_are_as_certain(
    closed: tuple[str, str], runs: tuple[Any, Any], stands: tuple[str, str]
) -> None:
    judgement = as_judgement("inc_1", Judged(AxesVerdict(*runs, "why"), (), 1.0), *closed)
    assert (judgement.culprit, judgement.certainty) == stands
    assert judgement.note.endswith("why")
