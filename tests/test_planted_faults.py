"""Every fault that can be planted in the engine is told by the detector meant for it, within its number of tokens.

And without a fault nothing is told. The embedded model, real turns, real numbers. What an audit cannot see (a cache
that plain decoding reads too) the shadow check sees; what neither sees (draws that are none) the numbers of the draws
show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from detectors.audit import audit_finding, nonfinite_finding
from detectors.drift.memory import DriftMemory
from detectors.drift.monitor import DriftMonitor
from detectors.finding import Finding, Grade
from engine.bench.workloads import Prompt, long_conversation, prompts
from engine.engine import EMBEDDED, Engine, EngineOptions
from engine.faults import Fault
from engine.sampler import SamplingParams
from engine.turn import Turn, TurnOptions

SHADOW = 16
"""Tokens between two shadow checks; the first step that begins at or after as many is checked."""


@dataclass(frozen=True, slots=True)
class Stated:
    """fault is told by `detector` at a token below `within`. entropy: a response of mean entropy near 1.3 nats that
    does not end by itself (drawing tells nothing where the model has no doubt). far: a prompt of so many tokens.
    compared: what differed in an audit. later: told about the turn that follows one with the fault. call: a greedy
    response that calls a tool. drawn: strikes only where tokens are drawn."""

    fault: Fault
    detector: str
    within: int
    prompt: int = 0
    entropy: bool = False
    codec: str = "full"
    far: int = 0
    compared: str = ""
    later: bool = False
    call: bool = False
    drawn: bool = False


TABLE = (
    Stated(Fault.VERIFY_IGNORES_CACHE, "drift.audit", 8, compared="rows"),
    Stated(Fault.REJECTED_DRAFTS_KEPT, "drift.audit", 24, compared="state"),
    Stated(Fault.RECURRENT_NOT_ROLLED_BACK, "drift.audit", 24, compared="state"),
    Stated(Fault.STALE_RECURRENT_SLOT, "drift.audit", 16, compared="state"),
    Stated(Fault.POISONED_PREFIX, "drift.prefix", 8, prompt=1, compared="prefix", later=True),
    Stated(Fault.FLIPPED_ARGUMENT, "drift.audit", 24, prompt=1, compared="choice", call=True),
    Stated(Fault.FAR_CONTEXT, "drift.audit", 8, far=1400, compared="rows"),
    Stated(Fault.NAN_AT_POSITION, "drift.nonfinite", 9),
    Stated(Fault.KEYS_SCALED, "drift.shadow", SHADOW + 8),
    Stated(Fault.TILE_LOST, "drift.shadow", SHADOW + 8),
    Stated(Fault.ARGMAX_ACCEPTANCE, "drift.audit", 24, prompt=2, compared="choice", drawn=True),
    Stated(Fault.ARGMAX_ACCEPTANCE, "drift.accepted", 400, prompt=2, entropy=True),
    Stated(Fault.KEYS_UNROTATED, "drift.kv", 8, codec="k4v4"),
    Stated(Fault.CODES_SCALED, "drift.kv", 8, codec="k8v4"),
    Stated(Fault.VALUES_HALVED, "drift.kv", 8, codec="k4v4"),
    Stated(Fault.CODES_DAMAGED, "drift.kv", 8, codec="k4v4"),
)
SLOW_TABLE = tuple(
    Stated(Fault.ARGMAX_ACCEPTANCE, "drift.sharpened", 1500, prompt=prompt, entropy=True) for prompt in range(3)
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sound() -> Engine:
    return Engine(EMBEDDED)


def findings(
    engine: Engine, prompt: Prompt, options: TurnOptions, memory: DriftMemory | None = None
) -> Iterator[Finding]:
    """All that is told about one response, as the session asks."""
    turn = engine.open(prompt.tokens, options)
    for _ in turn.sequence.prefill():
        pass
    monitor = DriftMonitor(options.codec, memory, exact=True)
    while not turn.ended:
        step = turn.step()
        found: list[Finding | None] = [monitor.feed(step.position, step.tokens, step)]
        if step.audit is not None:
            audit = step.audit
            numbers = (audit.rows, audit.mismatch, audit.max_abs_diff, audit.compared)
            found.append(audit_finding(step.position, *numbers))
        found += [nonfinite_finding(at, token.finite) for at, token in enumerate(step.tokens, step.position)]
        yield from (finding for finding in found if finding is not None)
    engine.close(turn)


def prompt_of(engine: Engine, stated: Stated) -> Prompt:
    if stated.later or stated.call:
        return prompts(engine, "agent", False)[stated.prompt]
    if stated.far:
        return Prompt("far", long_conversation(engine, stated.far)[1], SamplingParams(), 64)
    return prompts(engine, "fresh", False)[stated.prompt]


def faulty(stated: Stated) -> Engine:
    """An engine with the fault, where it takes an earlier turn after that one."""
    engine = Engine(EMBEDDED, EngineOptions(fault=stated.fault))
    if stated.later:
        earlier = prompts(engine, "agent", False)[stated.prompt - 1]
        finished(engine, earlier.tokens, TurnOptions(drafter="mtp+ngram", max_tokens=16))
    return engine


def finished(engine: Engine, prompt: Sequence[int], options: TurnOptions) -> Turn:
    """A whole turn, given back."""
    turn = engine.open(prompt, options)
    list(turn.sequence.prefill())
    while not turn.ended:
        turn.step()
    engine.close(turn)
    return turn


def told(stated: Stated, drafter: str = "mtp+ngram") -> list[Finding]:
    """Until the intended detector speaks."""
    engine = faulty(stated)
    prompt = prompt_of(engine, stated)
    endless = tuple((token, -100.0) for token in engine.tokenizer.eos_ids)
    sampling = SamplingParams(
        temperature=1.0,
        seed=100 + stated.prompt,
        frequency_penalty=0.6 if stated.entropy else 0.0,
        logit_bias=endless,
    )
    if stated.call:
        sampling = SamplingParams()
    options = TurnOptions(sampling, drafter, stated.within, shadow_every=0 if stated.entropy else SHADOW)
    options = replace(options, codec=stated.codec)
    found = []
    for finding in findings(engine, prompt, options):
        found.append(finding)
        if finding.detector == stated.detector:
            break
    return found


@pytest.mark.parametrize("stated", TABLE, ids=lambda stated: f"{stated.fault}-{stated.detector}")
def test_a_fault_is_told_by_its_detector_in_time(stated: Stated) -> None:
    found = told(stated)
    assert found, f"{stated.fault}: nothing was told within {stated.within} tokens"
    assert found[-1].detector == stated.detector
    assert found[-1].position < stated.within
    assert found[-1].grade is Grade.FALLBACK
    assert found[-1].evidence.get("compared", "") == stated.compared


@pytest.mark.slow
@pytest.mark.parametrize("stated", SLOW_TABLE, ids=lambda stated: f"prompt-{stated.prompt}")
@pytest.mark.parametrize("drafter", ["ngram", "mtp+ngram"])
def test_argmax_acceptance_is_told_on_any_text_with_doubt_in_it(stated: Stated, drafter: str) -> None:
    assert told(stated, drafter)[-1].position < stated.within


GREEDY, DRAWN = SamplingParams(), SamplingParams(temperature=1.0, seed=9)
SPECULATION = tuple(stated for stated in TABLE if stated.compared)
FALLS = (
    *(pytest.param(stated, GREEDY, id=f"{stated.fault}-greedy") for stated in SPECULATION if not stated.drawn),
    *(
        pytest.param(stated, DRAWN, id=f"{stated.fault}-drawn", marks=[] if stated.drawn else pytest.mark.slow)
        for stated in SPECULATION
    ),
)


@pytest.mark.parametrize(("stated", "sampling"), FALLS)
def test_falling_back_gives_what_a_sound_plain_engine_gives(
    sound: Engine, stated: Stated, sampling: SamplingParams
) -> None:
    """From the first token that nobody has seen on: what differed there may have been wrong before."""
    prompt = prompt_of(sound, stated)
    plain = finished(sound, prompt.tokens, TurnOptions(sampling, "none", 48)).generated
    if stated.call:
        assert "<parameter=" in sound.tokenizer.decode(plain), "the fault has nothing to strike"
    engine = faulty(stated)
    turn = engine.open(prompt.tokens, TurnOptions(sampling, "mtp+ngram", 48))
    list(turn.sequence.prefill())
    while (step := turn.step()).audit is None or step.audit.mismatch is None:
        assert not turn.ended, "nothing was told"
        assert turn.generated == plain[: len(turn.generated)], "a wrong token was not told in its step"
    turn.rewind(step.position, "none", trusted=True)
    while not turn.ended:
        turn.step()
    assert turn.generated == plain


@pytest.mark.parametrize("fault", [Fault.ARGMAX_ACCEPTANCE, Fault.FLIPPED_ARGUMENT])
def test_a_token_that_its_row_has_not_chosen_is_told_in_its_step_without_any_audit(sound: Engine, fault: Fault) -> None:
    engine, told = Engine(EMBEDDED, EngineOptions(fault=fault)), 0
    drawn = fault is Fault.ARGMAX_ACCEPTANCE
    for seed, prompt in enumerate(prompts(sound, "fresh" if drawn else "agent", False)[:4]):
        sampling = SamplingParams(temperature=1.0 if drawn else 0.0, seed=seed)
        plain = finished(sound, prompt.tokens, TurnOptions(sampling, "none", 80)).generated
        turn = engine.open(prompt.tokens, TurnOptions(sampling, "mtp+ngram", 80, audit_every=10_000, audit_share=0.0))
        turn._auditor._steps = 1  # nothing is audited for being the first
        list(turn.sequence.prefill())
        while not turn.ended and ((step := turn.step()).audit is None or step.audit.mismatch is None):
            assert turn.generated == plain[: len(turn.generated)]
        told += not turn.ended and step.audit is not None and step.audit.compared == "choice"
    assert told, "the fault has not struck"


def test_a_refused_prefix_poisons_nobody_else(sound: Engine) -> None:
    """Whoever comes next starts cold or on what the fall back has computed anew."""
    first, second, third = (prompt.tokens for prompt in prompts(sound, "agent", False)[:3])
    engine = Engine(EMBEDDED, EngineOptions(fault=Fault.POISONED_PREFIX))
    finished(engine, first, TurnOptions(drafter="mtp+ngram", max_tokens=16))
    branch = engine.open([*first[:-20], *second[-20:]], TurnOptions(max_tokens=8))  # shares rows with what is poisoned
    assert branch.cached_tokens
    turn = engine.open(second, TurnOptions(drafter="mtp+ngram", max_tokens=48))
    list(turn.sequence.prefill())
    assert turn.cached_tokens
    report = turn.step().audit
    assert report is not None and report.compared == "prefix"
    turn.rewind(0, "none", trusted=True)
    while not turn.ended:
        turn.step()
    engine.close(turn)
    engine.close(branch)
    assert len(engine.prefixes) == 1, "only what was computed anew is kept"
    for prompt in (second, third):
        again = finished(engine, prompt, TurnOptions(max_tokens=48))
        assert again.cached_tokens
        assert again.generated == finished(sound, prompt, TurnOptions(max_tokens=48)).generated


def test_a_dead_drafter_is_an_event_and_no_finding() -> None:
    """Within 50 drafted tokens per drafter; the text is what it is without it."""
    engine = Engine(EMBEDDED, EngineOptions(fault=Fault.DEAD_DRAFTER))
    prompt = prompts(engine, "fresh", False)[0]
    endless = tuple((token, -100.0) for token in engine.tokenizer.eos_ids)
    sampling = SamplingParams(temperature=1.0, seed=1, logit_bias=endless)
    turn = engine.open(prompt.tokens, TurnOptions(sampling, "mtp", 120))
    list(turn.sequence.prefill())
    monitor, found, dead = DriftMonitor("full", None, exact=True), [], []
    while not turn.ended:
        step = turn.step()
        found.append(monitor.feed(step.position, step.tokens, step))
        if step.audit is not None:
            found.append(audit_finding(step.position, step.audit.rows, step.audit.mismatch, step.audit.max_abs_diff))
        if step.dead_drafter is not None:
            dead.append((step.dead_drafter, step.position))
    assert [name for name, _ in dead] == ["mtp"]
    assert dead[0][1] < 80
    assert not any(found)
    assert monitor.dead
    plain = finished(Engine(EMBEDDED), prompt.tokens, TurnOptions(sampling, "none", 120))
    assert turn.generated == plain.generated


ELSEWHERE = {Fault.DEAD_DRAFTER, Fault.STEP_HANGS, Fault.WORKER_DIES}
"""Told by no finding about tokens: an event above; faults of the device itself are in tests/test_device_faults.py."""


def test_the_table_holds_every_fault() -> None:
    assert {stated.fault for stated in TABLE} | ELSEWHERE == set(Fault)


def quiet(engine: Engine, temperature: float, drafter: str, workload: str, count: int, limit: int, every: int) -> int:
    """Tokens over which nothing was told; one memory for all responses, as in a server."""
    memory, tokens = DriftMemory(), 0
    for index, prompt in enumerate(prompts(engine, workload, False)[:count]):
        sampling = SamplingParams(temperature=temperature, seed=index, top_p=0.95 if temperature == 0.8 else 1.0)
        options = TurnOptions(sampling, drafter, min(limit, prompt.limit), shadow_every=every)
        found = list(findings(engine, prompt, options, memory))
        assert found == []
        tokens += limit
    return tokens


@pytest.mark.parametrize("drafter", ["none", "ngram", "mtp", "mtp+ngram"])
@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 0.8])
def test_without_a_fault_nothing_is_told(sound: Engine, temperature: float, drafter: str) -> None:
    assert quiet(sound, temperature, drafter, "agent", 2, 24, 8)


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["agent", "rewrite", "fresh"])
@pytest.mark.parametrize("drafter", ["none", "ngram", "mtp", "mtp+ngram"])
@pytest.mark.parametrize("temperature", [0.0, 0.8, 1.0])
def test_without_a_fault_nothing_is_told_over_whole_responses(
    sound: Engine, temperature: float, drafter: str, workload: str
) -> None:
    assert quiet(sound, temperature, drafter, workload, 12, 320, 32)
