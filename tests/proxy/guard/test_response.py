"""The state machine's rarer ways, as transcripts: rungs, budgets, time, and clients that leave in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from detectors.settings import DEFAULT, DetectorSettings
from detectors.stall import StallSettings
from policies.modes import PLAIN, DecodeMode
from policies.policy import Policy
from policies.rules import Remedy, Rule, When
from proxy.backends.base import RewindReport
from proxy.backends.errors import BackendError
from proxy.conversation import Message, PastCall, Tool
from proxy.events import Event, TextDelta
from proxy.guard.session import GuardedSession
from proxy.guard.session_budget import RewindLedger, SessionBudget
from tests.proxy.played import GOOD, LS, REQUEST, Played, Sink, play
from tests.proxy.scripted import FAST, PART, Script, ScriptedBackend, call_text, cut
from tests.virtual_time import run

BOTH = DecodeMode("mtp+ngram", "k4v4")
RM = call_text("rm", path="src")
REMARK = "This is English. "
MOVE = call_text("move", steps="3")


# Where a trip comes


@pytest.mark.parametrize(("width", "to"), [(1, 1), (2, 1), (3, 0), (100, 0)])
def test_a_trip_in_the_middle_of_a_character(width: int, to: int) -> None:
    """The first half has left no text, so the rewind may go before it; nothing is said twice and nothing is lost."""
    script = Script(f"caf{PART}é ok", fast=f"caf{PART}Xx no", audited="all", width=width)
    played = play(script)
    assert played.told() == ["<< text café ok", "<< finished stop in plain"]
    assert played.generation.rewinds == [(to, "plain", "trusted")]


def test_a_character_whose_first_half_is_delivered_as_text_of_its_token() -> None:
    """`é` completes a token that began with text: what was sent of it stays."""
    script = Script(f"so {PART}é<tool_call>", fast=f"so {PART}é{RM}", width=1)
    assert play(script).text.startswith("so é")


@pytest.mark.parametrize("width", [1, 4, 100])
def test_two_calls_at_once_of_which_the_second_is_bad(width: int) -> None:
    played = play(Script(f"{LS}\n{MOVE}", fast=f"{LS}\n{RM}", width=width))
    assert played.told() == [GOOD, '<< call 1 move {"steps":3}', "<< finished tool_calls in plain"]
    assert [incident.channel for incident in played.sink.incidents] == ["tool:1"]


@pytest.mark.parametrize("width", [1, 4, 100])
def test_two_calls_at_once_of_which_the_first_is_bad(width: int) -> None:
    played = play(Script(f"{LS}\n{MOVE}", fast=f"{RM}\n{MOVE}", width=width))
    assert played.told() == [GOOD, '<< call 1 move {"steps":3}', "<< finished tool_calls in plain"]
    assert played.generation.rewinds == [(0, "plain", "trusted")]


def test_after_a_rewind_usage_counts_what_was_delivered_and_what_was_thrown_away() -> None:
    played = play(Script(f"so {LS}", fast=f"so {RM}", width=4))
    usage = played.finished.usage
    assert usage.completion_tokens == len(cut(f"so {LS}"))
    assert usage.discarded_tokens == played.sink.incidents[0].tokens_rewound > 0
    assert played.finished.token_ids == play(f"so {LS}", mode=PLAIN).finished.token_ids


# Rungs


def test_two_trips_in_one_response_take_two_rungs() -> None:
    """The audit convicts speculation: the drafter goes and the cache stays. Then a bad call: plain."""
    script = Script(
        plain=f"one two three {LS}", packed=f"one two three {RM}", fast="one two thxxx", audited="all", width=1
    )
    played = play(script, mode=BOTH)
    assert played.told() == ["<< text one two three", GOOD, "<< finished tool_calls in plain"]
    assert played.traces() == [
        ">> rewind to 2 in none/k4v4, trusted",
        f">> rewind to {len(cut('one two three '))} in plain, trusted",
        "<< incident drift.audit rewind recovered",
        "<< blame speculation certain",
        "<< incident tool.unknown rewind recovered",
        "<< blame kv likely",
    ]
    assert [incident.rule for incident in played.sink.incidents] == ["wrong-speculation", "anything-else"]
    assert [incident.situation["rewinds"] for incident in played.sink.incidents] == [0, 1]


def test_a_rule_that_accuses_the_cache_keeps_the_drafter() -> None:
    policy = Policy(rules=(Rule("cache", When(("tool.*",)), ("rewind", "end"), "kv"),))
    played = play(Script(plain=f"so {LS}", packed=f"so {RM}"), policy, BOTH)
    assert played.told() == ["<< text so", GOOD, f"<< finished tool_calls in {FAST}"]
    assert played.traces()[1:] == ["<< incident tool.unknown rewind recovered", "<< blame kv likely"]


def test_what_recurs_with_one_part_off_is_not_yet_the_models() -> None:
    """Without the drafter the same bad call comes: the cache may be at fault. In plain it comes again: the model is."""
    policy = Policy(rules=(Rule("drafts", When(("tool.*",)), ("rewind", "end"), "speculation"),))
    played = play(f"so {RM}", policy, BOTH)
    assert [mode for _, mode, _ in played.generation.rewinds] == ["none/k4v4", "plain"]
    assert played.traces()[2:] == [
        "<< incident tool.unknown rewind recovered",
        "<< blame unknown none",
        "<< incident tool.unknown rewind ended",
        "<< blame model certain",
    ]


# Budgets


def test_a_response_whose_rewinds_are_spent_ends() -> None:
    script = Script(plain=LS, packed=RM, fast="thxxx", audited="all", width=1)
    played = play(script, Policy(max_rewinds=1), BOTH)
    assert played.told() == [
        "<< text [specguard] A call of tool `rm` was not sent: no such tool was declared.",
        "<< finished stop in none/k4v4",
    ]
    assert played.sink.incidents[1].situation["rewinds"] == 1


class Conversation:
    """Responses of one session, one after the other, with a budget of two rewinds in six hours."""

    def __init__(self, script: Script) -> None:
        self.now, self.sink, self.script = 0.0, Sink(), script
        self.budget = SessionBudget(RewindLedger(lambda: self.now), "me/s", 2, 6.0)

    def ask(self, policy: Policy | None = None, mode: DecodeMode = FAST) -> Played:
        backend, sink = ScriptedBackend(self.script), Sink()

        async def work() -> list[Event]:
            session = GuardedSession(REQUEST, backend, policy or Policy(), sink, mode, budget=self.budget)
            return [event async for event in session.events()]

        return Played(asyncio.run(work()), sink, backend.generations[0])


def test_a_session_whose_rewinds_are_spent_is_served_in_plain_and_told_once() -> None:
    session = Conversation(Script(f"so {LS}", fast=f"so {RM}"))
    for _ in range(2):
        assert session.ask().traces()[0] == ">> rewind to 2 in plain, trusted"
    third = session.ask()
    assert third.told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]
    assert third.traces() == ["<< incident budget.session start recovered", "<< blame unknown none"]
    incident = third.sink.incidents[0]
    assert (incident.mode_before, incident.mode_after, incident.rule) == (str(FAST), "plain", "session-budget")
    assert incident.evidence == {"rewinds": 2, "limit": 2, "hours": 6.0}
    fourth = session.ask()
    assert (fourth.finished.mode, fourth.traces()) == ("plain", [])
    session.now = 7 * 3600
    assert session.ask().traces()[0] == ">> rewind to 2 in plain, trusted"


def test_who_observes_or_is_plain_already_has_no_budget_to_speak_of() -> None:
    session = Conversation(Script(f"so {LS}", fast=f"so {RM}"))
    session.budget.spend()
    session.budget.spend()
    assert session.ask(mode=PLAIN).traces() == []
    observed = session.ask(Policy("observe"))
    assert observed.finished.mode == str(FAST)


# Time


class Pace:
    """Paces a scripted backend: seconds before each step, the last for all that follow."""

    def __init__(self, *seconds: float) -> None:
        self._seconds, self._steps = seconds, 0

    async def __call__(self) -> None:
        at = min(self._steps, len(self._seconds) - 1)
        self._steps += 1
        await asyncio.sleep(self._seconds[at])


def paced(
    script: Script | str,
    *seconds: float,
    policy: Policy | None = None,
    mode: DecodeMode = PLAIN,
    reads_s: float = 0.0,
    waits_s: float = 0.0,
    detectors: DetectorSettings = DEFAULT,
) -> tuple[Played, float]:
    """reads_s: that the client takes for each event; waits_s: until there is a place. And when it was over."""
    backend, sink = ScriptedBackend(script, pace=Pace(*seconds)), Sink()
    generate = backend.generate

    async def queued(*given: Any) -> Any:
        await asyncio.sleep(waits_s)
        return await generate(*given)

    backend.generate = queued  # type: ignore[method-assign]

    async def work() -> tuple[list[Event], float]:
        events = []
        session = GuardedSession(REQUEST, backend, policy or Policy(), sink, mode, detectors=detectors)
        async for event in session.events():
            events.append(event)
            await asyncio.sleep(reads_s)
        return events, asyncio.get_running_loop().time()

    events, ended = run(work())
    return Played(events, sink, backend.generations[0]), ended


LONG = f"so {call_text('ls', path='a b ' * 40)}"
HELD = "<< text so\n\n[specguard] A call of tool `ls` was not sent: it was not complete after 540 s."


def test_a_call_is_held_for_as_long_as_a_client_waits() -> None:
    played, ended = paced(LONG, 10)
    assert played.told() == [HELD, "<< finished stop in plain"]
    assert played.traces() == ["<< incident tool.held end ended", "<< blame unknown none"]
    incident = played.sink.incidents[0]
    assert (incident.channel, incident.grade, incident.rule) == ("tool:0", "fallback", "held-too-long")
    assert incident.evidence["held_s"] == 540
    assert ended == 10 * (len(cut("so <tool_call>")) + 54)


def test_time_that_a_client_reads_or_waits_for_its_place_does_not_count() -> None:
    played, ended = paced(f"a b c {LS} d {LS}", 15, reads_s=5000, waits_s=5000)
    assert played.traces() == []
    assert played.told()[-1] == "<< finished tool_calls in plain"
    assert ended > 20_000


def test_each_call_has_its_own_time() -> None:
    calls = "\n".join(call_text("move", steps=str(n)) for n in range(8))
    played, ended = paced(calls, 15)
    assert played.traces() == []
    assert ended > 8 * 200


def test_a_call_that_begins_in_the_step_that_ends_another_has_its_own_time() -> None:
    calls = "".join(call_text("move", steps=str(n)) for n in range(8))
    played, ended = paced(Script(calls, width=4), 39, mode=FAST)
    assert played.traces() == []
    assert ended > 4 * 540


def test_without_a_limit_a_call_may_take_for_ever() -> None:
    played, _ = paced(LONG, 25, policy=Policy(hold_call_s=0))
    assert played.told()[-1] == "<< finished tool_calls in plain"
    assert played.traces() == []


def test_observing_records_a_late_call_once_and_delivers_it() -> None:
    played, _ = paced(LONG, 10, policy=Policy("observe"))
    assert played.told()[-1] == "<< finished tool_calls in plain"
    assert played.traces() == ["<< incident tool.held none observed", "<< blame unknown none"]


def test_a_call_that_ends_in_its_last_second_was_not_held_too_long() -> None:
    cut_off = "".join(cut(LONG)[: len(cut("so <tool_call>")) + 54])
    played, ended = paced(cut_off, 10, policy=Policy("observe"))
    assert ended == 570
    assert [incident.detector for incident in played.sink.incidents] == ["tool.truncated"]


def test_a_trip_during_the_hold_does_not_turn_the_clock_back() -> None:
    """400 s into the call it turns out bad; decoded again it is good, but the client will not wait for its end."""
    bad = call_text("ls", path="a b " * 40).replace("</parameter>", "</parameter>\n<parameter=x>1</parameter>")
    script = Script(LONG, fast=f"so {bad}", width=4)
    played, ended = paced(script, 10, mode=FAST)
    assert played.told() == [HELD, "<< finished stop in plain"]
    assert played.traces() == [
        ">> rewind to 2 in plain, trusted",
        "<< incident tool.schema rewind recovered",
        "<< blame unknown none",
        "<< incident tool.held end ended",
        "<< blame unknown none",
    ]
    assert ended == 550
    assert played.sink.incidents[1].evidence["held_s"] == 540


def test_a_trip_and_the_end_of_the_hold_in_one_step() -> None:
    """The rewind comes first; the call that is opened again is too late at once."""
    bad = LONG.replace("</parameter>", "</parameter>\n<parameter=x>1</parameter>")
    patient = replace(DEFAULT, stall=StallSettings(floor_s=1e6, first_s=1e6, lost_floor_s=1e9, lost_first_s=1e9))
    played, _ = paced(Script(LONG, fast=bad, width=100), 10, 560, 5, mode=FAST, detectors=patient)
    assert played.told() == [HELD.replace("call of tool `ls`", "tool call"), "<< finished stop in plain"]
    assert [incident.detector for incident in played.sink.incidents] == ["tool.schema", "tool.held"]


def test_what_comes_instead_of_a_call_after_a_rewind_is_no_held_call() -> None:
    script = Script("so I say it in words " + "and words " * 40, fast=f"so {RM}", width=1)
    played, _ = paced(script, 25, mode=FAST)
    assert played.told()[-1] == "<< finished stop in plain"
    assert [incident.detector for incident in played.sink.incidents] == ["tool.unknown"]


def test_after_a_call_was_sent_a_late_one_ends_as_calls_do() -> None:
    played, _ = paced(f"{MOVE}\n{LONG}", 10)
    assert played.told()[0] == '<< call 0 move {"steps":3}'
    assert played.told()[-1] == "<< finished tool_calls in plain"
    assert "was not complete after 540 s" in played.text


# Leaving and failing in the middle of a rewind


class Rewinding(ScriptedBackend):
    """Its generations do something else first when they are rewound."""

    def __init__(self, script: Script, first: Callable[[], Awaitable[None]]) -> None:
        super().__init__(script)
        self._first = first

    async def generate(self, *given: Any) -> Any:
        generation = await super().generate(*given)
        rewind = generation.rewind

        async def later(*where: Any) -> RewindReport:
            await self._first()
            return await rewind(*where)

        generation.rewind = later  # type: ignore[method-assign]
        return generation


async def test_a_client_that_leaves_during_a_rewind() -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        reached.set()
        await never.wait()

    backend, sink = Rewinding(Script(f"so {LS}", fast=f"so {RM}", width=1), first), Sink()
    got: list[Event] = []

    async def read() -> None:
        async for event in GuardedSession(REQUEST, backend, Policy(), sink, FAST).events():
            got.append(event)  # noqa: PERF401

    task = asyncio.create_task(read())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [event.text for event in got if isinstance(event, TextDelta)] == ["so"]
    assert backend.generations[0].closes == 1
    assert [closure.outcome for closure in sink.closures] == ["abandoned"]


def test_an_engine_that_fails_in_a_rewind_fails_the_response() -> None:
    async def first() -> None:
        raise BackendError("the device is gone")

    backend, sink = Rewinding(Script(f"so {LS}", fast=f"so {RM}"), first), Sink()

    async def work() -> list[Event]:
        return [event async for event in GuardedSession(REQUEST, backend, Policy(), sink, FAST).events()]

    played = Played(asyncio.run(work()), sink, backend.generations[0])
    assert played.told() == ["<< text so", "<< failed internal: the device is gone"] or played.told() == [
        "<< failed internal: the device is gone"
    ]
    assert [closure.outcome for closure in sink.closures] == ["ended"]


def test_the_time_of_a_rewind_counts_for_the_call_that_is_held() -> None:
    async def first() -> None:
        await asyncio.sleep(541)

    bad = LONG.replace("</parameter>", "</parameter>\n<parameter=x>1</parameter>")
    backend, sink = Rewinding(Script(LONG, fast=bad, width=4), first), Sink()

    async def work() -> list[Event]:
        return [event async for event in GuardedSession(REQUEST, backend, Policy(), sink, FAST).events()]

    run(work())
    assert [incident.detector for incident in sink.incidents] == ["tool.schema", "tool.held"]
    assert sink.incidents[1].evidence["held_s"] == 541


def test_a_response_that_fails_before_its_first_token_was_not_abandoned() -> None:
    backend, sink, spent = ScriptedBackend(Script("so", fail_at=0)), Sink(), SessionBudget(RewindLedger(), "s", 1, 6.0)
    spent.spend()

    async def work() -> list[Event]:
        session = GuardedSession(REQUEST, backend, Policy(), sink, FAST, budget=spent)
        return [event async for event in session.events()]

    with pytest.raises(BackendError):
        asyncio.run(work())
    assert [closure.outcome for closure in sink.closures] == ["ended"]


def test_a_step_that_hangs_is_not_rewound_whatever_a_rule_says() -> None:
    policy = Policy(rules=(Rule("hopeful", When(("stall.*",)), ("rewind", "end")),))
    played, _ = paced("one two three " * 9, 1, 1, 1e9, policy=policy, mode=FAST)
    assert played.generation.rewinds == []
    assert [incident.action for incident in played.sink.incidents] == ["none", "end"]
    assert all(not incident.situation["can_rewind"] for incident in played.sink.incidents)


def test_a_rule_may_wait_for_a_lost_step() -> None:
    policy = Policy(rules=(Rule("patient", When(("stall.*",)), ("none",)),))
    played, ended = paced("one two three", 1, 1, 5000, policy=policy)
    assert played.told()[-1] == "<< finished stop in plain"
    assert [incident.action for incident in played.sink.incidents] == ["none"] * 2
    assert ended > 5000


# Rules that differ from the shipped ones


def test_a_rule_may_let_a_loop_pass_unheld_and_it_is_recorded() -> None:
    loop = "I" + " go on" * 600
    policy = Policy(rules=(Rule("let-it", When(("loop.*",)), ("none",)), *Policy().rules))
    played = play(loop, policy)
    assert played.text == loop
    assert max(len(event.text) for event in played.events if isinstance(event, TextDelta)) < 40
    assert {(incident.action, incident.rule) for incident in played.sink.incidents} == {("none", "let-it")}


def test_a_rule_may_end_at_once_what_the_shipped_ones_decode_again() -> None:
    policy = Policy(rules=(Rule("no-rm", When(("tool.*",), tools=("rm",)), ("end",)), *Policy().rules))
    played = play(Script(f"so {LS}", fast=f"so {RM}"), policy)
    assert played.told()[-1] == f"<< finished stop in {FAST}"
    assert played.sink.incidents[0].rule == "no-rm"
    assert played.generation.rewinds == []


def test_a_rule_may_be_for_the_name_of_the_open_call() -> None:
    rule = Rule("ls-loops", When(("loop.*",), channels=("tool",), tools=("ls",)), ("end",))
    policy = Policy(rules=(rule, *Policy().rules))
    looping = f"so {call_text('ls', path=' go on' * 900)}"
    assert play(Script(f"so {LS}", fast=looping), policy).sink.incidents[0].rule == "ls-loops"
    other = replace(REQUEST.tools[0], name="cat")
    played = play(Script(f"so {LS}", fast=looping.replace("=ls", "=cat")), policy, tools=(*REQUEST.tools, other))
    assert played.told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]


def test_a_mended_call_is_neither_told_as_text_nor_sent_again_by_a_later_rewind() -> None:
    """The markup alone was wrong, so the kept tokens hold a call without a name when they are read again."""
    broken = LS.replace("\n</function>", "")
    rules = (Rule("mend", When(("tool.markup",)), ("repair", "end")), *Policy().rules)
    script = Script(f"so {broken}\nand then {MOVE} ok", fast=f"so {broken}\nand then {RM}")
    played = play(script, Policy(repair=True, rules=rules))
    assert played.told() == [
        "<< text so",
        GOOD,
        "<< text and then",
        '<< call 1 move {"steps":3}',
        "<< text  ok",
        "<< finished tool_calls in plain",
    ]
    assert [incident.action for incident in played.sink.incidents] == ["repair", "rewind"]


@pytest.mark.parametrize("remedy", ["hold", "none"])
def test_a_bad_call_that_a_rule_lets_pass_is_recorded(remedy: Remedy) -> None:
    policy = Policy(rules=(Rule("pass", When(("tool.*",)), (remedy,)),))
    played = play(f"so {call_text('move', steps='many')}", policy)
    assert played.told()[1] == '<< call 0 move {"steps":"many"}'
    assert played.traces() == ["<< incident tool.schema none observed", "<< blame unknown none"]


@pytest.mark.parametrize("width", [1, 4, 100])
def test_a_call_that_mending_did_not_save_is_decoded_again_from_its_start(width: int) -> None:
    tools = (Tool("plan", parameters={"properties": {"what": {"type": "string"}, "steps": {"type": "array"}}}),)
    rules = (Rule("mend", When(("tool.*",)), ("repair", "rewind", "end")),)
    good, bad = call_text("plan", what="right", steps="[1]"), call_text("plan", what="wrong", steps="[1,,2]")
    played = play(Script(f"so {good}", fast=f"so {bad}", width=width), Policy(repair=True, rules=rules), tools=tools)
    assert played.told()[1:-1] == ['<< call 0 plan {"what":"right","steps":[1]}']
    assert played.generation.rewinds == [(2, "plain", "trusted")]


def test_an_end_by_rule_says_which() -> None:
    policy = Policy(rules=(Rule("no-cyrillic", When(("text.charset",)), ("end",)),))
    played = play(REMARK * 3 + "\u044d\u0442\u043e " * 60, policy)
    assert "[specguard] Stopped by the rule `no-cyrillic`: suspect:" in played.text
    assert played.finished.reason == "stop"


def test_the_record_names_no_tool_that_nobody_declared() -> None:
    played = play(Script(f"so {LS}", fast=f"so {call_text('secret-thing')}"))
    assert played.sink.incidents[0].situation["tool"] == ""
    assert played.sink.incidents[0].situation["undelivered"] == 1


def test_a_session_that_was_overridden_says_so_in_its_incidents() -> None:
    played = play(Script(LS, fast=RM), Policy(override="night"))
    assert played.sink.incidents[0].origin.override == "night"


def test_a_tool_declared_under_a_strange_name_is_matched_as_it_stands() -> None:
    policy = Policy(rules=(Rule("odd", When(("tool.*",), tools=("mcp__*",)), ("end",)), *Policy().rules))
    tools = (Tool("mcp__fs__write", parameters={"required": ["path"]}),)
    played = play(Script("so", fast=f"so {call_text('mcp__fs__write')}"), policy, tools=tools)
    assert played.sink.incidents[0].rule == "odd"


def test_a_budget_that_is_spent_does_not_hide_a_loop_of_the_history() -> None:
    messages = [Message("user", "go")]
    for n in range(3):
        messages.append(Message("assistant", f"try {n}", calls=(PastCall(f"c{n}", "ls", {"path": "src"}),)))
        messages.append(Message("tool", "a.py", call_id=f"c{n}"))
    played = play(LS, messages=tuple(messages))
    assert played.sink.incidents[0].detector == "loop.history"
    assert played.sink.incidents[0].rule == "agent-loop"


def test_caches_are_computed_anew_once_in_a_response() -> None:
    """What comes again from clean caches would come a third time."""
    rule = Rule("again", When(("tool.*",)), ("recompute", "end"))
    played = play(f"so {RM}", Policy(max_rewinds=5, rules=(rule, *Policy().rules)), mode=PLAIN)
    assert [(mode, rebuild) for _, mode, rebuild in played.generation.rewinds] == [("plain", "clean")]
    assert [incident.action for incident in played.sink.incidents] == ["rewind"], "the end is of the same one"
