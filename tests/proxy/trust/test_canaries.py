"""Canaries against engines that are sound, broken, slow or busy: what they decide, and whom they disturb."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from detectors.finding import Finding, Grade
from policies.breaker import Breaker, BreakerSettings, Key
from policies.modes import DecodeMode
from policies.trust import Served
from proxy.backends.base import Delta
from proxy.backends.errors import BackendError, Overloaded
from proxy.conversation import ChatRequest
from proxy.incidents import Incident
from proxy.trust import canaries as module
from proxy.trust.canaries import Canaries, CanarySettings
from proxy.trust.keeper import TrustKeeper
from proxy.trust.store import TrustStore, read, write
from tests.proxy.scripted import Script, ScriptedBackend, ScriptedGeneration, call_text

BASE = Incident(**{f.name: "" for f in fields(Incident)})  # type: ignore[arg-type]
CODE = re.compile(r"depot is (\d{4})")


class Engine(ScriptedBackend):
    """Answers canaries as a good model would; `broken` maps a decode mode to what it says instead.

    Keeps one prefix: whoever asks behind it is served from it, unless `forgets`.
    """

    def __init__(self, broken: dict[str, str] | None = None, forgets: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.info = replace(self.info, fingerprint="f00d", context_window=4096)
        self.broken, self.forgets = broken or {}, forgets
        self.asked: list[tuple[str, str]] = []
        self.discarded: list[str] = []
        self.kept = False

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
        if self._refuse is not None:
            raise self._refuse
        name = request.request_id.removeprefix("canary-")
        self.asked.append((name, str(mode)))
        text = self.broken.get(str(mode)) or good(name, request)
        tokens = await self.count_tokens(request.messages, request.tools)
        generation = Generation(self, Script(text), mode, request, tokens, self._pace)
        generation.cached_tokens = tokens // 2 if self.kept and not self.forgets else 0
        self.generations.append(generation)
        return generation


class Generation(ScriptedGeneration):
    def __init__(self, engine: Engine, *rest: Any) -> None:
        super().__init__(*rest)
        self._engine = engine

    async def close(self) -> None:
        await super().close()
        self._engine.kept = True

    async def discard(self) -> None:
        await super().close()
        self._engine.kept = False
        self._engine.discarded.append(str(self._mode))


def good(name: str, request: ChatRequest) -> str:
    found = CODE.search(request.messages[1].text)
    assert found is not None
    said = {"needle": found[1], "call": call_text("open_depot", code=found[1]), "json": f'{{"code": "{found[1]}"}}'}
    return said.get(name, "And then it rained for a week.")


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[TrustKeeper]:
    keeper = TrustKeeper(TrustStore(tmp_path / "trust.json"), BreakerSettings(3, 600, 0.001, 0.002))
    keeper.serve(Served("f00d", "qwen_xml", 4096), ())
    yield keeper
    keeper.close()


def tripped(keeper: TrustKeeper, mode: str = "mtp+ngram/full", context: int = 600) -> Key:
    incident = replace(BASE, id=f"inc {mode}", detector="drift.audit", action="rewind", fingerprint="f00d")
    if not DecodeMode.parse(mode).speculates:
        incident = replace(incident, detector="loop.period")
    keeper.opened(replace(incident, mode_before=mode, mode_after="plain", context=context))
    return Key("f00d", mode, 0 if context <= 1024 else 1, "qwen_xml")


def made(keeper: TrustKeeper, backend: ScriptedBackend, **settings: Any) -> Canaries:
    idle = asyncio.Event()
    idle.set()
    return Canaries(keeper, backend, idle, CanarySettings(**{"quiet_s": 0.0} | settings))


async def judged(
    keeper: TrustKeeper, backend: Engine, mode: str, context: int = 600, **settings: Any
) -> tuple[str, str]:
    key = Key("f00d", mode, 0 if context <= 1024 else 1, "qwen_xml")
    return await made(keeper, backend, **settings).judge(key, context)


async def test_a_sound_mode_passes_and_leaves_nothing_behind(keeper: TrustKeeper) -> None:
    engine = Engine()
    outcome, why = await judged(keeper, engine, "mtp+ngram/k4v4")
    assert outcome == "passed", why
    names = ["needle", "call", "json", "story"]
    drafts = [(name, mode) for name in names for mode in ("mtp+ngram/k4v4", "none/k4v4")]
    assert engine.asked == [*drafts, *((name, "plain") for name in names)]
    assert engine.discarded == ["none/k4v4", "plain"] and not engine.kept
    assert all(generation.closes for generation in engine.generations)
    assert [bool(g.cached_tokens) for g in engine.generations] == ([False] + [True] * 7) + ([False] + [True] * 3)


@pytest.mark.parametrize(
    ("mode", "broken", "word"),
    [
        # drafts: any other token is a fault, also where the answer is still right
        ("mtp+ngram/full", {"mtp+ngram/full": "no"}, "needle differs from plain at token 0"),
        ("mtp+ngram/k4v4", {"mtp+ngram/k4v4": "no"}, "needle differs from none/k4v4"),
        # a codec: it fails what plain decoding passes
        ("none/k4v4", {"none/k4v4": "no"}, "needle fails in none/k4v4 and not in plain"),
        ("mtp+ngram/k4v4", {"none/k4v4": "no", "mtp+ngram/k4v4": "no"}, "needle fails in none/k4v4 and not in plain"),
    ],
)
async def test_a_fault_is_found_and_named(keeper: TrustKeeper, mode: str, broken: dict[str, str], word: str) -> None:
    outcome, why = await judged(keeper, Engine(broken), mode)
    assert outcome == "failed" and word in why


async def test_a_codec_may_use_other_words_where_the_answer_is_right(keeper: TrustKeeper) -> None:
    class Wordy(Engine):
        async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
            if mode.codec != "full" and request.request_id == "canary-needle":
                self.broken = {str(mode): f"It is {good('needle', request)}."}
            else:
                self.broken = {}
            return await super().generate(request, mode)

    assert (await judged(keeper, Wordy(), "none/k4v4"))[0] == "passed"


async def test_a_codec_that_cannot_be_compared_is_neither_cleared_nor_condemned(keeper: TrustKeeper) -> None:
    assert (await judged(keeper, Engine({"none/k4v4": "dunno", "plain": "dunno"}), "none/k4v4"))[0] == "passed"
    outcome, why = await judged(keeper, Engine({"none/k4v4": "no", "plain": "not me"}), "none/k4v4")
    assert outcome == "gave_up" and "plain answers nothing rightly here" in why
    broken = {"mtp/k4v4": "other", "none/k4v4": "no", "plain": "not me"}
    outcome, why = await judged(keeper, Engine(broken), "mtp/k4v4")
    assert outcome == "failed" and "differs from none/k4v4" in why, "its drafts can be compared all the same"


async def test_a_device_that_repeats_no_bits_is_held_to_the_checks(keeper: TrustKeeper) -> None:
    engine = Engine()
    engine.capabilities = replace(engine.capabilities, exactness="distribution")
    assert (await judged(keeper, engine, "mtp+ngram/full"))[0] == "passed"
    engine.broken = {"mtp+ngram/full": "no"}
    assert (await judged(keeper, engine, "mtp+ngram/full")) == (
        "failed",
        "needle fails in mtp+ngram/full and not in plain",
    )


async def test_without_an_answer_from_a_kept_prefix_nothing_is_shown(keeper: TrustKeeper) -> None:
    assert (await judged(keeper, Engine(forgets=True), "mtp+ngram/full"))[0] == "gave_up"
    assert (await judged(keeper, Engine(forgets=True), "mtp+ngram/full", needs_hit=False))[0] == "passed"


async def test_a_canary_that_is_too_dear_is_not_run(keeper: TrustKeeper) -> None:
    engine = Engine()
    outcome, why = await judged(keeper, engine, "mtp+ngram/full", context=3000, most_tokens=3500)
    assert (outcome, engine.asked) == ("gave_up", []) and "breaker.canary_tokens allows 3500" in why


async def test_without_kept_prefixes_every_question_is_counted_with_its_prompt(keeper: TrustKeeper) -> None:
    settings = {"context": 1000, "most_tokens": 4000}
    assert (await judged(keeper, Engine(), "mtp+ngram/full", **settings))[0] == "passed"
    engine = Engine(forgets=True)
    outcome, why = await judged(keeper, engine, "mtp+ngram/full", **settings, needs_hit=False)
    assert (outcome, engine.asked) == ("gave_up", []), why


@pytest.mark.parametrize("context", [1, 500, 1024, 1500, 3900, 100_000])
async def test_the_prompt_has_the_length_that_is_asked_for(keeper: TrustKeeper, context: int) -> None:
    questions, tokens = await made(keeper, engine := Engine()).fitted(context, 5)
    request = questions[0].request
    assert tokens == await engine.count_tokens(request.messages, request.tools) < 4096
    if 500 <= context < 3900:
        assert abs(tokens - context) < 40
    if context > 3900:
        assert tokens > 3800


async def test_numbers_that_are_none_and_audits_fail_it(keeper: TrustKeeper) -> None:
    class Sick(Engine):
        script: Script

        async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
            generation = await super().generate(request, mode)
            if mode.speculates:
                generation._script = self.script
            return generation

    engine = Sick()
    for script, word in [
        (Script("a b c d", nonfinite=frozenset({1})), "not finite"),
        (Script("a b c d", fast="a x c d", audited="all"), "audited step"),
        (Script("a b c d", fail_at=2, failure=BackendError("out of memory")), "out of memory"),
    ]:
        engine.script = script
        outcome, why = await judged(keeper, engine, "mtp+ngram/full")
        assert outcome == "failed" and word in why


async def test_a_fault_of_the_sound_mode_says_nothing_about_the_other(keeper: TrustKeeper) -> None:
    assert (await judged(keeper, Engine(refuse=Overloaded("busy")), "mtp+ngram/full"))[0] == "gave_up"
    assert (await judged(keeper, Engine(refuse=BackendError("broken")), "mtp+ngram/full"))[0] == "failed"

    class Full(Engine):
        async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
            if not mode.speculates:
                raise BackendError("no room")
            return await super().generate(request, mode)

    assert await judged(keeper, Full(), "mtp+ngram/full") == ("gave_up", "needle in plain: no room")


async def test_a_step_that_hangs_fails_it(keeper: TrustKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_S", 0.05)

    class Stuck(Generation):
        async def next(self, waits: Callable[[Delta], bool] | None = None) -> Delta | None:
            await asyncio.Event().wait()
            raise AssertionError

    class Hangs(Engine):
        async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
            return Stuck(self, Script(""), mode, request, 9, self._pace)

    outcome, why = await judged(keeper, Hangs(), "mtp+ngram/full")
    assert outcome == "failed" and "a step took longer" in why


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise TimeoutError


@asynccontextmanager
async def running(canaries: Canaries) -> AsyncIterator[None]:
    task = asyncio.create_task(canaries.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def run_until(canaries: Canaries, condition: Callable[[], bool]) -> None:
    async with running(canaries):
        await until(condition)


async def test_the_loop_heals_what_is_sound_and_keeps_what_is_not(keeper: TrustKeeper) -> None:
    sound, sick = tripped(keeper), tripped(keeper, "mtp/full")
    canaries = made(keeper, Engine({"mtp/full": "no"}))
    await run_until(canaries, lambda: keeper.records[sound].state == "closed" and keeper.records[sick].openings > 2)
    assert keeper.records[sick].confirmed
    assert "canary" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_canary_that_gave_up_is_no_evidence_for_the_next_one(keeper: TrustKeeper) -> None:
    key = tripped(keeper)

    class Once(Engine):
        """Its first plain answer has numbers that are none: whatever that was, it does not come again."""

        async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
            generation = await super().generate(request, mode)
            if mode == DecodeMode() and [m for _, m in self.asked].count("plain") == 1:
                generation._script = replace(generation._script, nonfinite=frozenset({0}))
            return generation

    canaries = made(keeper, Once())
    await run_until(canaries, lambda: keeper.records[key].state == "closed")


async def test_a_mode_comes_back_once_there_is_a_kept_prefix_to_answer_from(keeper: TrustKeeper) -> None:
    key = tripped(keeper)
    canaries = made(keeper, engine := Engine(forgets=True))
    async with running(canaries):
        await until(lambda: "no answer came from a kept prefix" in canaries.last)
        engine.forgets = False
        await until(lambda: keeper.records[key].state == "closed")


async def test_nothing_runs_while_somebody_is_served(keeper: TrustKeeper) -> None:
    key = tripped(keeper)
    canaries = made(keeper, engine := Engine())
    canaries.idle.clear()
    async with running(canaries):
        await asyncio.sleep(0.05)
        assert not engine.asked and keeper.records[key].state == "open"
        canaries.idle.set()
        await until(lambda: keeper.records[key].state == "closed")


async def test_a_replay_may_end_first(keeper: TrustKeeper) -> None:
    key = tripped(keeper)
    canaries = made(keeper, engine := Engine())
    async with running(canaries):
        async with canaries.spare:
            await asyncio.sleep(0.05)
            assert not engine.asked and keeper.records[key].state == "open"
        await until(lambda: keeper.records[key].state == "closed")


async def test_a_client_interrupts_and_finished_answers_are_not_asked_for_again(keeper: TrustKeeper) -> None:
    key = tripped(keeper)
    gate, waits = asyncio.Semaphore(6), asyncio.Event()

    async def pace() -> None:
        if gate.locked():
            waits.set()
        await gate.acquire()

    canaries = made(keeper, engine := Engine(pace=pace))
    async with running(canaries):
        await waits.wait()
        assert keeper.records[key].state == "half_open"
        canaries.idle.clear()
        await canaries.make_way()
        await until(lambda: keeper.records[key].state == "open")
        assert all(generation.closes for generation in engine.generations), "the device is free"
        assert "a client came" in canaries.last and keeper.records[key].openings == 1
        interrupted = list(engine.asked)
        for _ in range(200):
            gate.release()
        canaries.idle.set()
        await until(lambda: keeper.records[key].state == "closed")
    done = interrupted[:-1]
    assert done and not set(done) & set(engine.asked[len(interrupted) :])


async def test_the_end_of_the_server_leaves_the_breaker_open(keeper: TrustKeeper) -> None:
    key = tripped(keeper)
    gate = asyncio.Event()

    async def pace() -> None:
        await gate.wait()

    canaries = made(keeper, engine := Engine(pace=pace))
    await run_until(canaries, lambda: bool(engine.generations))
    assert keeper.records[key].state == "open"
    assert all(generation.closes for generation in engine.generations)


async def test_a_reset_while_a_canary_runs_ends_nothing(keeper: TrustKeeper) -> None:
    tripped(keeper)
    canaries = made(keeper, engine := Engine())
    original = engine.generate

    async def resetting(request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
        keeper._breaker.reset()
        return await original(request, mode)

    engine.generate = resetting  # type: ignore[method-assign]
    await run_until(canaries, lambda: len(engine.asked) >= 8)
    assert keeper.records == {}


async def test_a_reset_by_hand_holds_although_nobody_asks_for_anything(keeper: TrustKeeper) -> None:
    key, other = tripped(keeper), tripped(keeper, "mtp/full")
    keeper.store.flush()
    write(keeper.store.path, {k: r for k, r in read(keeper.store.path).items() if k != key})
    await run_until(made(keeper, engine := Engine()), lambda: bool(engine.discarded))
    keeper.store.flush()
    assert {mode for _, mode in engine.asked} == {"mtp/full", "plain"}
    assert set(read(keeper.store.path)) == set(keeper.records) == {other}


async def test_a_reset_of_another_mode_lets_a_canary_end(keeper: TrustKeeper) -> None:
    key, other = tripped(keeper), tripped(keeper, "mtp/full", 2000)
    canaries = made(keeper, engine := Engine({"mtp/full": "no"}))
    original = engine.generate

    async def resetting(request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
        if not engine.asked:
            keeper.store.flush()
            by_hand = Breaker(records=read(keeper.store.path))  # as `specguard trust reset` does it
            assert by_hand.reset(str(other)) == [other]
            write(keeper.store.path, by_hand.records)
        return await original(request, mode)

    engine.generate = resetting  # type: ignore[method-assign]
    await run_until(canaries, lambda: keeper.records[key].state == "closed")
    assert len(engine.asked) == 8 and set(keeper.records) == {key}, "and nothing was asked twice"


async def test_none_are_run_where_they_are_switched_off(keeper: TrustKeeper) -> None:
    tripped(keeper)
    await made(keeper, Engine(), most_tokens=0).run()


class Checks:
    """Of lanes: one is `sound`, the other one may be poisoned, and hits are told or not."""

    def __init__(self, sound: str = "plain", why: str = "", tells: bool = True) -> None:
        self.sound, self.why, self.tells = DecodeMode.parse(sound), why, tells

    def tells_hits(self, mode: DecodeMode) -> bool:
        return self.tells

    async def unsound(self, mode: DecodeMode) -> str:
        return self.why


@pytest.mark.parametrize("sound", ["plain", "none/k8v8"])
@pytest.mark.parametrize("mode", ["mtp/full", "mtp+ngram/k4v4", "none/k4v4"])
async def test_a_lane_is_held_against_the_plain_one_whatever_both_are(
    keeper: TrustKeeper, mode: str, sound: str
) -> None:
    for broken, outcome in (({}, "passed"), ({mode: "no"}, "failed"), ({sound: "dunno"}, "gave_up")):
        engine = Engine(broken)
        looking = made(keeper, engine)
        looking.checks = Checks(sound)
        assert (await looking.judge(Key("f00d", mode, 0, "qwen_xml"), 600))[0] == outcome
        assert {each for _, each in engine.asked} == {mode, sound}


async def test_a_poisoned_lane_is_asked_nothing(keeper: TrustKeeper) -> None:
    engine = Engine()
    looking = made(keeper, engine)
    looking.checks = Checks(why="it says one token")
    assert await looking.judge(Key("f00d", "mtp/full", 0, "qwen_xml"), 600) == ("failed", "it says one token")
    looking.checks = Checks(sound="mtp/full")
    outcome, why = await looking.judge(Key("f00d", "mtp/full", 0, "qwen_xml"), 600)
    assert (outcome, engine.asked) == ("gave_up", []) and "nothing sounder" in why


async def test_hits_that_are_not_told_are_not_asked_for_and_not_claimed(keeper: TrustKeeper) -> None:
    looking = made(keeper, Engine(forgets=True))
    for tells, outcome in ((True, "gave_up"), (False, "passed")):
        looking.checks = Checks(tells=tells)
        found, why = await looking.judge(Key("f00d", "mtp/full", 0, "qwen_xml"), 600)
        assert found == outcome and ("proves nothing about that cache" in why) == (not tells)


async def test_a_lane_that_tells_of_a_failure_has_failed(keeper: TrustKeeper) -> None:
    class Failing(Engine):
        async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
            generation = await super().generate(request, mode)
            if mode.speculates:
                step = generation.next

                async def failed() -> Delta | None:
                    delta = await step()
                    found = Finding("lane.failed", Grade.FALLBACK, "engine", 0, 0, "the lane failed")
                    return None if delta is None else replace(delta, found=found)

                generation.next = failed  # type: ignore[method-assign]
            return generation

    looking = made(keeper, Failing())
    looking.checks = Checks()
    outcome, why = await looking.judge(Key("f00d", "mtp/full", 0, "qwen_xml"), 600)
    assert outcome == "failed" and "the lane failed" in why
