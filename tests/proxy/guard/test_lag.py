"""Steps of an open call that wait for each other: which may, for how long, and that nobody can tell."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from detectors.parts import Part
from policies.modes import PLAIN, DecodeMode
from policies.policy import Policy
from policies.rules import Rule, When
from policies.trust import Limit
from proxy.backends.base import (
    Audit,
    CacheFault,
    CacheHealth,
    Delta,
    RewindReport,
    Shadow,
    StepStats,
    Token,
)
from proxy.backends.errors import BackendError, EngineLost, Trouble
from proxy.conversation import ChatRequest
from proxy.events import Event
from proxy.guard.lag import LAG_MS, Lag
from proxy.guard.session import GuardedSession
from tests.proxy.played import GOOD, LS, REQUEST, Played, Sink, play
from tests.proxy.scripted import FAST, PART, Script, ScriptedBackend, ScriptedGeneration, call_text, cut
from tests.virtual_time import run

RM = call_text("rm", path="src")
WRITE = call_text("ls", path="one two three\nfour five six\n" * 6)
LOOPING = "<tool_call>\n<function=ls>\n<parameter=path>\n" + "over and over " * 400


def step(text: str = "a", milliseconds: float = 5.0, **stats: Any) -> Delta:
    return Delta(0, (Token(1, text, finite=True),), StepStats(FAST, "mtp", 3, 3, milliseconds, 10, **stats))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_wait_until_the_engine_has_worked_long_enough() -> None:
    lag = Lag(Clock())
    steps = [step(str(number), LAG_MS / 4) for number in range(5)]
    assert [lag.takes(each) for each in steps] == [True] * 4 + [False]
    assert lag.take(steps[-1]) == steps
    assert lag.takes(steps[0]), "the next ones may wait as long"


def test_steps_do_not_wait_for_one_that_comes_late() -> None:
    clock = Clock()
    lag = Lag(clock)
    assert lag.takes(step())
    clock.now = LAG_MS / 1e3 + 0.001
    assert not lag.takes(step())
    assert len(lag.take(step())) == 2


@pytest.mark.parametrize("every_ms", [1, 3, 8, 12, 13, 20, 24, 30])
def test_words_are_late_by_no_more_than_they_may(every_ms: int) -> None:
    """Steps of others are made beside each, so that more time passes than a step itself takes."""
    clock = Clock()
    lag, late = Lag(clock), list[float]()
    oldest: float | None = None
    for _ in range(100):
        clock.now += every_ms / 1e3
        each = step(milliseconds=0.5)
        if lag.takes(each):
            oldest = clock.now if oldest is None else oldest
            continue
        late.append(0.0 if oldest is None else clock.now - oldest)
        lag.take(each)
        oldest = None
    assert max(late[1:]) * 1e3 <= LAG_MS + 1e-6
    assert late[0] * 1e3 <= max(LAG_MS, every_ms) + 1e-6, "how long a step takes is known after the first one"


@pytest.mark.parametrize(
    "urgent",
    [
        step("a<"),
        step(milliseconds=LAG_MS * 2),
        step(audit=Audit(4, None)),
        step(dead_drafter="mtp"),
        step(shadow=Shadow(3, True, True, 0.0)),
        step(cache=CacheHealth((CacheFault("seal", 0, "keys", 3, 1.0, 0.0),), 8, None, None, None)),
        replace(step(), end="length"),
        replace(step(), tokens=(), found=Finding("lane.failed", Grade.FALLBACK, "engine", 0, 0, "died")),
        replace(step(), tokens=(Token(1, "a", parts=(Part("call", "a"),)),)),
        replace(step(), tokens=(Token(1, "a"), Token(2, "b", finite=False))),
    ],
)
def test_what_does_not_wait(urgent: Delta) -> None:
    lag = Lag(Clock())
    assert lag.takes(step())
    assert not lag.takes(urgent)
    assert lag.take(urgent) == [step(), urgent]


# Nobody can tell


def both(script: Script, **more: Any) -> tuple[Played, Played]:
    """With steps that wait for each other, and with steps that never do. Whether those that wait are asked for one by
    one makes no difference, except that less of a text that goes in circles has left when it is found to."""
    waited, bursts, at_once = (
        play(replace(script, step_ms=ms, bursts=in_a_row), clock=Clock(), **more)
        for ms, in_a_row in ((0.5, False), (0.5, True), (LAG_MS * 2, True))
    )
    for fewer, more_told in zip(bursts.told(), waited.told(), strict=True):
        before, notice, after = fewer.partition("\n\n[specguard] Stopped: ")
        assert fewer == more_told or (notice and more_told.startswith(before) and more_told.endswith(notice + after))
    assert records(bursts) == records(waited)
    assert [rewind[0] for rewind in bursts.generation.rewinds] == [rewind[0] for rewind in waited.generation.rewinds]
    return waited, at_once


@given(
    st.lists(st.sampled_from(["so ", LS, WRITE, "\n", "<think>", "</think>", RM, LOOPING, "\ue000"]), max_size=5),
    st.lists(st.sampled_from(["so ", LS, WRITE, "\n", RM, LOOPING]), max_size=4),
    st.integers(1, 9),
    st.data(),
)
def test_the_client_and_the_incidents_are_the_same(
    plain: list[str], fast: list[str], width: int, data: st.DataObject
) -> None:
    audited = data.draw(st.sets(st.integers(0, 200), max_size=6))
    script = Script("".join(plain), fast="".join(fast), width=width, audited=audited)
    waited, at_once = both(script, mode=FAST)
    assert waited.told() == at_once.told()
    assert waited.text == at_once.text
    assert waited.finished.token_ids == at_once.finished.token_ids
    assert waited.traces() == at_once.traces()

    def seen(played: Played) -> list[tuple[Any, ...]]:
        return [(each.detector, each.position, each.began, each.channel) for each in played.sink.incidents]

    assert seen(waited) == seen(at_once)


def test_what_a_bad_call_made_the_engine_compute_in_vain_is_counted() -> None:
    """The call is bad from its first line on; what was computed behind it is discarded, and said to be."""
    bad = WRITE.replace("<parameter=path>", "<parameter=mode>\nx\n</parameter>\n<parameter=path>")
    waited, at_once = both(Script(f"so {LS}", fast=f"so {bad}", width=2), mode=FAST)
    assert waited.told() == at_once.told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]
    for played in (waited, at_once):
        (incident,) = played.sink.incidents
        (position, _, _) = played.generation.rewinds[0]
        assert played.finished.usage.discarded_tokens == incident.tokens_rewound
        assert position == len(cut("so "))
    steps = len(cut(f"so {WRITE}"))
    assert at_once.generation.steps <= waited.generation.steps <= at_once.generation.steps + steps


def test_a_plain_response_has_as_many_steps() -> None:
    waited, at_once = both(Script(f"so {WRITE}"), mode=PLAIN)
    assert waited.generation.steps == at_once.generation.steps
    assert waited.finished.timings.predicted_n == at_once.finished.timings.predicted_n


@pytest.mark.parametrize("width", [1, 4])
def test_steps_do_not_wait_where_trust_in_the_mode_ends(width: int) -> None:
    def left(step_ms: float) -> list[tuple[int, str, str]]:
        backend = ScriptedBackend(Script(f"so {WRITE}", width=width, step_ms=step_ms))

        async def work() -> None:
            session = GuardedSession(REQUEST, backend, Policy(), Sink(), FAST, limit=Limit(70, PLAIN))
            async for _ in session.events():
                pass

        run(work())
        return backend.generations[0].rewinds

    assert left(0.5) == left(LAG_MS * 2)
    assert [mode for _, mode, _ in left(0.5)] == ["plain"]


@pytest.mark.parametrize("width", [1, 4, 30])
def test_a_number_that_is_none_is_found_in_a_text_argument(width: int) -> None:
    script = Script(f"so {WRITE}", width=width, nonfinite=frozenset({40}))
    for played in both(script, policy=Policy(action="observe")):
        assert [(each.detector, each.position) for each in played.sink.incidents] == [("drift.nonfinite", 40)]


def test_an_incident_tells_of_the_step_that_it_is_about() -> None:
    """However short the steps are that came behind it before anybody looked."""
    text = "so it goes " + "abc def ghi jkl " * 40
    script = Script(text, step_ms=0.1, bursts=True, width=1)
    for bad in range(2, 60):
        pieces = list(cut(text))
        pieces[bad] = "\ufffd"
        policy = Policy(rules=(Rule("foreign", When(("text.charset",)), ("end",)), *Policy().rules))
        played = play(replace(script, plain="".join(pieces)), policy, PLAIN, clock=Clock())
        (incident,) = played.sink.incidents
        assert incident.position in [each["position"] for each in incident.steps]


# Nothing comes any more

LOST = EngineLost(Trouble("died", "the worker has died"))
BAD = WRITE.replace("<parameter=path>", "<parameter=mode>\nx\n</parameter>\n<parameter=path>")


def records(played: Played) -> list[tuple[Any, ...]]:
    """What is kept of a response beside its events."""
    told = [
        (each.detector, each.position, each.began, each.channel, each.situation["tool"], kept.kept_ids, kept.modes)
        for each, kept in zip(played.sink.incidents, played.sink.captures, strict=True)
        if kept is not None
    ]
    assert len(told) == len(played.sink.incidents)
    return [*told, *((each.outcome, each.completion_tokens, each.discarded_tokens) for each in played.sink.closures)]


def test_a_call_leaves_at_its_end_also_where_that_is_not_one_token() -> None:
    """The last token of the tag has nothing in it that looks like one."""
    text = f"so {LS.replace('</tool_call>', f'</tool_call{PART}>')} after all"
    for played in both(Script(text, fail_at=len(cut(text)) - 1), mode=PLAIN):
        assert played.told() == ["<< text so", GOOD, "<< text  after", "<< finished tool_calls in plain"]


@pytest.mark.parametrize("mode", [PLAIN, FAST])
@pytest.mark.parametrize("failure", [LOST, BackendError("no")], ids=["lost", "failed"])
@pytest.mark.parametrize("before", ["so ", f"so {LS}"], ids=["first", "second"])
def test_an_engine_that_fails_has_said_what_it_said(mode: Any, failure: BackendError, before: str) -> None:
    script = Script(before + WRITE, width=3, failure=failure)
    first, last = len(cut(before)), len(cut(before + WRITE))
    for fail_at in (*range(first + 1, first + 20), *range(last - 9, last)):
        waited, at_once = both(replace(script, fail_at=fail_at), mode=mode)
        assert waited.told() == at_once.told()
        assert records(waited) == records(at_once)
        if before != "so ":
            assert waited.finished.token_ids == at_once.finished.token_ids
            assert len(waited.finished.token_ids) == waited.finished.usage.completion_tokens == fail_at


@pytest.mark.parametrize(
    ("policy", "mode"), [(Policy(action="observe"), FAST), (Policy(), PLAIN)], ids=["observe", "plain"]
)
def test_what_is_bad_in_the_last_steps_is_recorded(policy: Policy, mode: Any) -> None:
    fail_at = len(cut(f"so {BAD.partition('=mode>')[0]}=mode>")) + 2
    played = play(Script(f"so {BAD}", width=2, step_ms=0.5, fail_at=fail_at, failure=LOST), policy, mode)
    assert [each.detector for each in played.sink.incidents] == ["tool.schema", "stall.engine"]
    assert [each.situation["can_rewind"] for each in played.sink.incidents] == [False, False]


def test_what_ended_the_response_is_recorded_once() -> None:
    """Every further token of a call that is too long finds it too long."""
    script = Script(f"so {WRITE}", step_ms=0.5, fail_at=28, failure=LOST)
    played = play(script, Policy(hold_call_chars=50), PLAIN)
    assert [each.detector for each in played.sink.incidents] == ["tool.limit", "stall.engine"]
    assert played.generation.steps == 29, "found when the engine was lost, not before"


def leaves(script: Script, steps: int, after_s: float) -> Played:
    """The engine hangs behind so many steps; the client leaves after a while."""
    count = 0

    async def pace() -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(0.001 if count <= steps else 1e9)

    backend, sink = ScriptedBackend(script, pace=pace), Sink()

    async def read(events: list[Any]) -> None:
        session = GuardedSession(REQUEST, backend, Policy(), sink, PLAIN)
        async for event in session.events():
            events.append(event)  # noqa: PERF401 (it may be cancelled)

    async def work() -> list[Any]:
        events: list[Any] = []
        reading = asyncio.ensure_future(read(events))
        await asyncio.wait([reading], timeout=after_s)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return events

    return Played(run(work()), sink, backend.generations[0])


@pytest.mark.parametrize("steps", [10, 12, 20, 40])
@pytest.mark.parametrize("after_s", [100.0, 1000.0], ids=["late", "lost"])
def test_a_step_that_does_not_come_is_told_behind_all_that_came(steps: int, after_s: float) -> None:
    script = Script(f"so {WRITE}")
    waited, bursts, at_once = (
        leaves(replace(script, step_ms=ms, bursts=in_a_row), steps, after_s)
        for ms, in_a_row in ((0.5, False), (0.5, True), (LAG_MS * 2, False))
    )
    assert waited.told() == bursts.told() == at_once.told()
    assert records(waited) == records(bursts) == records(at_once)
    kept = [len(capture.kept_ids) for capture in waited.sink.captures if capture is not None]
    assert [each.position for each in waited.sink.incidents] == kept
    assert kept == [steps] * (1 if after_s < 600 else 2)
    assert {each.completion_tokens for each in waited.sink.closures} == {steps}


@pytest.mark.parametrize("failure", [LOST, BackendError("no"), MemoryError("the device's")], ids=repr)
@pytest.mark.parametrize("bursts", [False, True])
def test_what_was_said_leaves_before_the_engine_fails(failure: Any, bursts: bool) -> None:
    script = Script("one two three four five", width=1, fail_at=5, failure=failure, step_ms=0.5, bursts=bursts)
    played = play(script, clock=Clock())
    assert played.text == "one two three four"
    assert played.told()[-1].startswith("<< failed")


# What was accused does not leave, whatever fails


class Unrewindable(ScriptedBackend):
    """Is lost while it rewinds."""

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> ScriptedGeneration:
        generation = await super().generate(request, mode)

        async def lost(position: int, mode: DecodeMode, rebuild: str = "none") -> RewindReport:
            raise LOST

        generation.rewind = lost  # type: ignore[method-assign,assignment]
        return generation


def test_what_an_audit_accuses_does_not_leave_when_the_rewind_fails() -> None:
    """A mismatch accuses every step since the last delivery, those of its row among them."""
    script = Script("one two three four", fast="one bad worse four", width=1, audited={2}, step_ms=0.5, bursts=True)
    backend, sink = Unrewindable(script), Sink()

    async def work() -> list[Event]:
        return [event async for event in GuardedSession(REQUEST, backend, Policy(), sink, FAST).events()]

    played = Played(run(work()), sink, backend.generations[0])
    assert played.text == "one"
    assert played.told()[-1].startswith("<< failed")
    assert sink.incidents[0].detector == "drift.audit"


def test_what_a_rule_cuts_does_not_leave_when_the_engine_fails() -> None:
    """The finding's rule ends the response where the strange letters began, not where they were found."""
    policy = Policy(rules=(Rule("foreign", When(("text.charset",)), ("end",)), *Policy().rules))
    script = Script("so это δύο 日本 and more of it", fail_at=7, failure=LOST, step_ms=0.5, bursts=True)
    played = play(script, policy, PLAIN, clock=Clock())
    assert [each.detector for each in played.sink.incidents] == ["text.charset", "stall.engine"]
    assert played.text == "so"


def test_a_text_that_may_be_a_loop_is_looked_at_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []
    step = ScriptedGeneration.next

    async def noted(self: ScriptedGeneration, waits: Any = None) -> Any:
        asked.append((len(self.kept), waits is not None))
        return await step(self, waits)

    monkeypatch.setattr(ScriptedGeneration, "next", noted)
    play(Script("so " + "over and over " * 400, step_ms=5.0, bursts=True), mode=PLAIN, clock=Clock())
    suspected = 96  # tokens that a repeated unit covers by then
    before = [in_a_row for at, in_a_row in asked if 0 < at < suspected]
    behind = [in_a_row for at, in_a_row in asked if at > suspected + 20]
    assert before and all(before)
    assert behind and not any(behind)
