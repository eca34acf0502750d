"""A fault in the compressed cache, from the engine to the client: told, cured, explained; a sound cache is left alone.

The cure is `plain/full` from the target of the rewind on, to the last id: computed here by another engine that has no
fault, with what was delivered before forced upon it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
import pytest_asyncio
import torch

from engine.bench.workloads import conversations, prompts
from engine.engine import EMBEDDED, Engine, EngineOptions
from engine.faults import Fault
from engine.planted_codecs import damage
from engine.sampler import SamplingParams
from engine.turn import TurnOptions
from policies.modes import PLAIN, DecodeMode
from policies.policy import Policy
from proxy.backends.builtin import BuiltinBackend
from proxy.conversation import ChatRequest, Message, Sampling, Tool
from proxy.events import Finished
from proxy.guard.session import GuardedSession
from proxy.incidents import Closure, Incident

CODEC_FAULTS = (Fault.KEYS_UNROTATED, Fault.CODES_SCALED, Fault.VALUES_HALVED, Fault.CODES_DAMAGED)
TOLD_WITHIN = 8
ENFORCE = Policy()
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Sink:
    opened_: list[Incident] = field(default_factory=list)
    closed_: list[Closure] = field(default_factory=list)

    def opened(self, incident: Incident, capture: object = None) -> None:
        self.opened_.append(incident)

    def closed(self, closure: Closure) -> None:
        self.closed_.append(closure)

    def judged(self, judgement: object) -> None:
        raise AssertionError("nobody runs this again")


def asked(index: int, temperature: float = 0.0, count: int = 40) -> ChatRequest:
    """The first question of a repair."""
    said = conversations()["agent"][index]["messages"]
    messages = tuple(Message(each["role"], each["content"]) for each in said[:2])
    told = [each["function"] for each in conversations()["tools"]]
    tools = tuple(Tool(each["name"], each["description"], each["parameters"]) for each in told)
    sampling = Sampling(temperature=temperature, top_p=0.95 if temperature == 0.8 else 1.0, seed=7 + index)
    return ChatRequest("openai.chat", "m", messages, tools, sampling, count, request_id=f"r{index}")


async def served(
    backend: BuiltinBackend, request: ChatRequest, mode: DecodeMode, policy: Policy = ENFORCE
) -> tuple[Finished, Sink]:
    sink = Sink()
    session = GuardedSession(request, backend, policy, sink, mode)
    events = [event async for event in session.events()]
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1], sink


async def started(fault: Fault | None = None, **options: object) -> BuiltinBackend:
    plant = None if fault is None else str(fault)
    backend = BuiltinBackend(plant=plant, force_low_bits=True, **options)  # type: ignore[arg-type]
    await backend.start()
    return backend


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sound() -> AsyncIterator[BuiltinBackend]:
    backend = await started()
    yield backend
    await backend.stop()


@pytest.mark.parametrize("shadow_mib", [0, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("drafter", [pytest.param("none", marks=pytest.mark.slow), "mtp+ngram"])
@pytest.mark.parametrize("fault", CODEC_FAULTS)
async def test_a_fault_is_told_cured_and_explained(
    sound: BuiltinBackend, fault: Fault, drafter: str, shadow_mib: int
) -> None:
    backend = await started(fault, shadow_bytes=shadow_mib << 20)
    try:
        for index, temperature in ((0, 0.0), (1, 0.8)):
            request = asked(index, temperature)
            wanted, _ = await served(sound, request, PLAIN)
            finished, sink = await served(backend, request, DecodeMode(drafter, "k4v4"))
            (incident,), (closure,) = sink.opened_, sink.closed_
            assert incident.detector == "drift.kv"
            assert incident.evidence["codec"] == "k4v4"
            assert incident.position < TOLD_WITHIN
            # the drafter is not accused
            after = str(DecodeMode(drafter))
            assert (incident.mode_before, incident.mode_after, finished.mode) == (f"{drafter}/k4v4", after, after)
            assert incident.rewound_to == 0, "nothing was delivered before"
            assert incident.rebuild == "clean"
            assert (closure.outcome, closure.culprit, closure.certainty) == ("recovered", "kv", "certain")
            assert closure.level == ("L2" if shadow_mib else "L3")
            assert finished.token_ids == wanted.token_ids, "the cure is plain decoding with a full cache"
    finally:
        await backend.stop()


@pytest.mark.parametrize(
    "fault", [*(pytest.param(fault, marks=pytest.mark.slow) for fault in CODEC_FAULTS[:-1]), CODEC_FAULTS[-1]]
)
async def test_a_full_cache_has_none_of_these_faults(sound: BuiltinBackend, fault: Fault) -> None:
    backend = await started(fault)
    try:
        for mode in (PLAIN, DecodeMode("mtp+ngram")):
            wanted, _ = await served(sound, asked(0), mode)
            finished, sink = await served(backend, asked(0), mode)
            assert (finished.token_ids, sink.opened_) == (wanted.token_ids, [])
    finally:
        await backend.stop()


async def test_what_the_damaged_codec_has_kept_is_dropped() -> None:
    """The next request begins from nothing, although its whole prompt was kept; other codecs keep theirs."""
    backend = await started(Fault.CODES_DAMAGED)
    try:
        kept = backend.engine.prefixes
        for codec in ("k4v4", "full"):
            await served(backend, asked(0), DecodeMode("none", codec), Policy("observe"))
            await served(backend, asked(1), DecodeMode("none", codec), Policy("observe"))
        assert {sequence.codec for sequence in kept._kept} == {"full"}, "found damaged, so not even kept"
        backend._options = replace(backend._options, fault=None)
        backend.engine.options = backend._options
        await served(backend, asked(2), DecodeMode("none", "k4v4"))
        assert [sequence.codec for sequence in kept._kept][-1] == "k4v4"
        backend.engine.options = replace(backend._options, fault=Fault.CODES_DAMAGED)
        _, sink = await served(backend, asked(2), DecodeMode("none", "k4v4"))
        assert [incident.detector for incident in sink.opened_] == ["drift.kv"]
        assert sink.opened_[0].cached_tokens > 0
        assert {sequence.codec for sequence in kept._kept} == {"full"}
    finally:
        await backend.stop()


@pytest.mark.parametrize("codec", ["k8v8", "k8v4", "k4v4", "k4v2", "k3v3"])
@pytest.mark.parametrize(
    "temperature", [pytest.param(0.0, marks=pytest.mark.slow), 0.8, pytest.param(1.0, marks=pytest.mark.slow)]
)
async def test_a_sound_codec_is_not_accused(sound: BuiltinBackend, codec: str, temperature: float) -> None:
    """With prefix hits (each prompt is asked twice)."""
    hits = 0
    for index in (0, 0, 1):
        finished, sink = await served(sound, asked(index, temperature, 80), DecodeMode("mtp+ngram", codec))
        assert [incident.detector for incident in sink.opened_ if incident.detector.startswith("drift")] == []
        hits += finished.usage.cached_tokens > 0
    assert hits > 0


def plain_from(prompt: tuple[int, ...], forced: list[int], count: int) -> list[int]:
    """Greedy plain decoding with a full cache after a forced beginning, without anything of a turn."""
    sequence = Engine(EMBEDDED)._new_sequence()
    sequence.begin(prompt)
    list(sequence.prefill())
    said: list[int] = []
    while len(said) < count:
        rows = sequence.decode()
        token = forced[len(said)] if len(said) < len(forced) else int(rows.logits[0, :2048].argmax())
        sequence.commit([token], rows.hidden, speculative=False)
        said.append(token)
    return said


@pytest.mark.parametrize("drafter", ["none", "mtp+ngram"])
async def test_damage_in_mid_response_is_cured_from_the_target_on(drafter: str) -> None:
    engine = Engine(EMBEDDED)
    engine.tokenizer.eos_ids = frozenset()
    prompt = prompts(engine, "agent", False)[1].tokens
    turn = engine.open(prompt, TurnOptions(SamplingParams(), drafter, 60, codec="k4v4"))
    list(turn.sequence.prefill())
    while len(turn.generated) < 12:
        step = turn.step()
        assert step.cache is not None
        assert step.cache.faults == ()
    before = list(turn.generated)
    damage(turn.sequence.state.kv)
    steps = 0
    while not (step := turn.step()).cache or not step.cache.faults:
        steps += 1
        assert steps < 8, "not told in time"
    target = len(before) - 3
    report = engine.rewind(turn, target, "none", "full")
    assert (report.level, report.codec) == ("L3", "full")
    while not turn.ended:
        turn.step()
    assert turn.generated == plain_from(prompt, before[:target], 60)


async def test_a_damaged_full_cache_is_computed_again_too() -> None:
    """What fell back to nothing before: the cache stays full, and none of it is taken over."""
    engine, sound = Engine(EMBEDDED, EngineOptions(fault=Fault.TILE_LOST)), Engine(EMBEDDED)
    prompt = prompts(engine, "agent", False)[1].tokens
    outcomes = []
    for each in (engine, sound):
        each.tokenizer.eos_ids = frozenset()
        turn = each.open(prompt, TurnOptions(max_tokens=40))
        list(turn.sequence.prefill())
        while len(turn.generated) < 6:
            turn.step()
        if each is engine:
            assert each.rewind(turn, 0, "none", "full").level == "L3"
        while not turn.ended:
            turn.step()
        outcomes.append(list(turn.generated))
    assert outcomes[0] == outcomes[1]


async def test_a_wrong_prefix_in_plain_decoding_is_computed_again(sound: BuiltinBackend) -> None:
    """No mode is safer than plain, and none need be: the state is at fault. Whoever comes next takes over a sound
    one."""
    backend = await started(Fault.POISONED_PREFIX)
    try:
        await served(backend, asked(0), DecodeMode("mtp+ngram"))
        told = []
        for index in (1, 2):
            finished, sink = await served(backend, asked(index), PLAIN)
            right, _ = await served(sound, asked(index), PLAIN)
            assert finished.token_ids == right.token_ids
            told.append(sink)
    finally:
        await backend.stop()
    (opened,), (closed,) = told[0].opened_, told[0].closed_
    assert (opened.detector, opened.action, opened.rule) == ("drift.prefix", "rewind", "wrong-prefix")
    assert (opened.mode_before, opened.mode_after, opened.rebuild) == ("plain", "plain", "clean")
    assert (closed.outcome, closed.culprit, closed.certainty) == ("recovered", "prefix", "certain")
    assert told[1].opened_ == []
