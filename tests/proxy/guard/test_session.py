"""Guarded sessions as transcripts: `>>` what the guard asks of the engine, `<<` what others get."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing

import pytest

from policies.modes import PLAIN
from policies.policy import Policy
from proxy.backends.errors import BackendError, Overloaded
from proxy.conversation import Sampling, Tool
from proxy.events import Event, Failed, TextDelta
from proxy.guard.session import GuardedSession
from tests.proxy import scripted
from tests.proxy.played import GOOD, LS, REQUEST, Sink, play
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text, cut, token_ids


def test_clean_text() -> None:
    played = play("<think>\nhm\n</think>\n\nHello  world.\n")
    assert played.told() == ["<< thinking hm", "<< text Hello  world.\n", f"<< finished stop in {FAST}"]
    assert played.traces() == []
    assert played.finished.token_ids == token_ids("<think>\nhm\n</think>\n\nHello  world.\n")


def test_clean_text_is_not_delayed() -> None:
    events = play(Script("a b c d e f", width=2)).events
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a b", " c d", " e f"]


@pytest.mark.parametrize("width", [1, 3, 100])
def test_a_clean_call_is_sent_whole_in_the_end(width: int) -> None:
    played = play(Script(f"I look.\n\n{LS}", width=width))
    assert played.told() == ["<< text I look.", GOOD, f"<< finished tool_calls in {FAST}"]


def test_two_calls_with_text_between() -> None:
    played = play(f"{LS}\nand\n{call_text('move', steps='-3')}\n")
    assert played.told() == [
        GOOD,
        "<< text and",
        '<< call 1 move {"steps":-3}',
        f"<< finished tool_calls in {FAST}",
    ]


def test_a_call_without_arguments() -> None:
    assert play(call_text("move")).told()[0] == "<< call 0 move {}"


def test_usage_and_timings() -> None:
    finished = play(Script("<think>a b</think>c d e", width=4)).finished
    assert (finished.usage.completion_tokens, finished.usage.reasoning_tokens) == (7, 3)
    assert (finished.usage.prompt_tokens, finished.usage.discarded_tokens) == (17, 0)
    assert (finished.timings.predicted_n, finished.timings.draft_n, finished.timings.draft_n_accepted) == (
        7,
        6,
        5,
    )


def test_an_audit_mismatch_in_text() -> None:
    played = play(Script("one two six four five", fast="one two six fxxx nine", audited="all", width=2))
    assert played.told() == ["<< text one two six four five", "<< finished stop in plain"]
    assert played.traces() == [
        ">> rewind to 2 in plain, trusted",
        "<< incident drift.audit rewind recovered",
        "<< blame speculation certain",
    ]


def test_the_text_of_a_mismatching_step_is_never_sent() -> None:
    played = play(Script("a b c d", fast="a b X Y", audited={2}, width=2))
    assert "X" not in played.text
    assert played.text == "a b c d"
    assert played.finished.usage.discarded_tokens == 2


def test_an_audit_mismatch_in_a_call_discards_the_whole_call() -> None:
    """Steps of the call before the audited one are as suspect, and nothing of them was sent."""
    script = Script(f"I look.\n{LS}", fast=f"I look.\n{call_text('ls', path='lib')}x", audited={20}, width=4)
    played = play(script)
    assert played.told() == ["<< text I look.", GOOD, "<< finished tool_calls in plain"]
    assert played.generation.rewinds == [(3, "plain", "trusted")]


def test_a_call_that_violates_its_schema_is_decoded_again() -> None:
    played = play(Script(f"so\n{LS}", fast=f"so\n{call_text('ls', pth='src')}"))
    assert played.told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]
    assert played.traces() == [
        ">> rewind to 2 in plain, trusted",
        "<< incident tool.schema rewind recovered",
        "<< blame speculation certain",
    ]
    incident, closure = played.sink.incidents[0], played.sink.closures[0]
    assert incident.evidence["unexpected"] == ["pth"]
    assert (incident.mode_before, incident.mode_after) == (str(FAST), "plain")
    found = len(token_ids("<tool_call>\n<function=ls>\n<parameter=pth>"))  # the rest is the step that brought it
    assert found <= incident.tokens_rewound < found + 4
    assert closure.proof["first_difference"] == 2 + cut(LS).index("path")
    assert closure.proof["discarded"] != closure.proof["redecoded"]
    assert closure.milliseconds == 2.0
    assert played.finished.incidents == (incident.id,)


@pytest.mark.parametrize(
    ("bad", "detector"),
    [
        (call_text("rm", path="src"), "tool.unknown"),
        (call_text("ls", path="src", other="x"), "tool.schema"),
        (LS.replace("parameter=path", "parameter=path=src"), "tool.markup"),
        (LS.replace("<function=ls>", "<tool_call>\n<function=ls>"), "tool.markup"),
        (LS.removesuffix("</tool_call>"), "tool.truncated"),
    ],
)
def test_every_kind_of_bad_call_is_decoded_again(bad: str, detector: str) -> None:
    played = play(Script(f"so\n{LS}\n", fast=f"so\n{bad}"))
    assert played.told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]
    assert played.sink.incidents[0].detector == detector
    assert played.traces()[-1] == "<< blame speculation certain"


def test_plain_decoding_that_ends_its_turn_instead_is_a_difference() -> None:
    played = play(Script("so", fast=f"so{call_text('rm')}"))
    assert played.told() == ["<< text so", "<< finished stop in plain"]
    assert played.traces()[1:] == ["<< incident tool.unknown rewind recovered", "<< blame speculation certain"]


def test_tokens_that_straddle_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """`so<to` is partly delivered, so nothing can go back before it; the bad call after it must not leave."""
    monkeypatch.setattr(scripted, "PIECES", re.compile(".{1,5}", re.DOTALL))
    cut.cache_clear()
    bad = call_text("rm", path="src")
    assert play(Script(f"so{LS}", fast=f"so{bad}")).told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]
    assert play(f"so{bad}").told()[0] == (
        "<< text so\n\n[specguard] A call of tool `rm` was not sent: no such tool was declared."
    )
    cut.cache_clear()


def test_a_call_longer_than_the_limit_is_given_up() -> None:
    long = call_text("ls", path="x y" * 200)
    played = play(Script(LS, fast=long), Policy(hold_call_chars=300))
    assert played.told() == [GOOD, "<< finished tool_calls in plain"]
    assert played.sink.incidents[0].detector == "tool.limit"


def test_an_invalid_call_of_the_model_itself_is_not_sent() -> None:
    played = play(f"so\n{call_text('ls', path='src', depth='2')}\n")
    assert played.told() == [
        "<< text so\n\n[specguard] A call of tool `ls` was not sent: its arguments violate "
        "`additionalProperties` at / (unexpected: depth).",
        "<< finished stop in plain",
    ]
    assert played.traces() == [
        ">> rewind to 2 in plain, trusted",
        "<< incident tool.schema rewind ended",
        "<< blame model certain",
    ]


def test_in_plain_decoding_an_invalid_call_ends_at_once() -> None:
    played = play(call_text("rm", path="src"), mode=PLAIN)
    assert played.told() == [
        "<< text [specguard] A call of tool `rm` was not sent: no such tool was declared.",
        "<< finished stop in plain",
    ]
    assert played.traces() == ["<< incident tool.unknown end ended", "<< blame model certain"]


def test_a_second_bad_call_after_a_recovery_is_an_incident_of_its_own() -> None:
    bad = call_text("rm", path="src")
    played = play(Script(f"{LS}\n{bad}", fast=f"{call_text('ls')}\n{bad}"))
    assert [line.split(" was")[0] for line in played.told()] == [
        GOOD,
        "<< text [specguard] A call of tool `rm`",
        "<< finished tool_calls in plain",
    ]
    assert played.traces() == [
        ">> rewind to 0 in plain, trusted",
        "<< incident tool.schema rewind recovered",
        "<< blame speculation certain",
        "<< incident tool.unknown end ended",
        "<< blame model certain",
    ]


def test_a_call_that_the_token_limit_cuts_off() -> None:
    played = play(f"so\n{LS}", max_tokens=12)
    assert played.told() == [
        "<< text so\n\n[specguard] A tool call was not sent: the token limit cut it off.",
        "<< finished length in plain",
    ]
    assert played.traces()[1:] == ["<< incident tool.truncated rewind ended", "<< blame model certain"]


def test_a_faulty_call_that_ran_into_the_token_limit_is_healed() -> None:
    played = play(Script(LS, fast=call_text("ls", path="a b " * 50)), max_tokens=60)
    assert played.told() == [GOOD, "<< finished tool_calls in plain"]


LOOP = " go on" * 2000


def test_a_loop_in_text_leaks_only_until_it_is_suspected() -> None:
    played = play(Script("I will be done.", fast=f"I will{LOOP}"))
    leaked = played.text.removeprefix("I will").count(" go on")
    assert leaked <= 96 // 2
    assert played.generation.rewinds[0][0] <= 2 + 96
    assert played.sink.incidents[0].detector == "loop.period"
    assert played.finished.usage.completion_tokens < 110


def test_a_loop_in_arguments_never_leaks() -> None:
    played = play(Script(f"so\n{LS}", fast=f"so\n{call_text('ls', path=LOOP)}"))
    assert played.told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]
    assert played.traces() == [
        ">> rewind to 2 in plain, trusted",
        "<< incident loop.period rewind recovered",
        "<< blame speculation certain",
    ]
    assert played.finished.usage.discarded_tokens < 600


def test_a_loop_of_the_model_itself_ends_the_response() -> None:
    played = play(f"I will{LOOP}")
    notice = "[specguard] Stopped: the model repeats the same 2 tokens in its text, 512 times by now."
    assert played.text.endswith(notice)
    assert played.text.count(" go on") <= 96 // 2
    assert played.told()[-1] == "<< finished stop in plain"
    assert played.traces()[1:] == ["<< incident loop.period rewind ended", "<< blame model likely"]
    assert played.finished.usage.completion_tokens < 1100


def test_a_loop_of_the_model_in_a_call_ends_the_response() -> None:
    played = play(call_text("ls", path=LOOP))
    assert played.told() == [
        "<< text [specguard] Stopped: the model repeats the same 2 tokens in a tool call, 1024 times by now.",
        "<< finished stop in plain",
    ]
    assert played.traces()[1:] == ["<< incident loop.period rewind ended", "<< blame model certain"]


def test_repetition_that_plain_decoding_confirms_and_ends_is_delivered() -> None:
    """A false alarm costs time, never output."""
    rows = " 0," * 170
    played = play(f"table:{rows} end.")
    assert played.text == f"table:{rows} end."
    assert played.traces()[1:] == ["<< incident loop.period rewind recovered", "<< blame model likely"]


def test_suspicious_text_is_held_and_then_released() -> None:
    played = play("a" + " b c" * 60 + " d e f")
    texts = [event.text for event in played.events if isinstance(event, TextDelta)]
    assert max(map(len, texts)) > 30
    assert played.text == "a" + " b c" * 60 + " d e f"
    assert played.traces() == []


def test_numbers_that_are_none() -> None:
    played = play(Script("one two", nonfinite=frozenset({1})))
    assert played.traces()[:2] == [
        ">> rewind to 1 in plain, trusted",
        "<< incident drift.nonfinite rewind ended",
    ]
    # The script is not finite in plain decoding either: nothing is left to trust.
    assert played.told()[-1] == "<< failed internal: the engine cannot be trusted: logits are not finite"


def test_without_budget_a_bad_call_ends_the_response() -> None:
    played = play(Script(LS, fast=call_text("rm")), Policy(max_rewinds=0))
    assert played.told() == [
        "<< text [specguard] A call of tool `rm` was not sent: no such tool was declared.",
        f"<< finished stop in {FAST}",
    ]
    assert played.traces() == ["<< incident tool.unknown end ended", "<< blame unknown none"]


def test_without_budget_a_proven_fault_fails_the_response() -> None:
    played = play(Script("a b c d", fast="a b X Y", audited="all", width=2), Policy(max_rewinds=0))
    assert played.told()[0] == "<< text a b"
    assert isinstance(played.events[-1], Failed)
    assert played.traces() == ["<< incident drift.audit end ended", "<< blame speculation certain"]


def test_state_that_verification_touched_is_not_trusted() -> None:
    played = play(Script("a b c d e", fast="a b X Y e", tainted="n o i s e", audited="all", width=2))
    assert played.text == "a b c d e"


OBSERVE = Policy("observe")


def test_observing_changes_nothing() -> None:
    played = play(Script("a b c d", fast="a b X Y", audited="all", width=2), OBSERVE)
    assert played.told() == ["<< text a b X Y", f"<< finished stop in {FAST}"]
    assert played.traces() == ["<< incident drift.audit none observed", "<< blame speculation certain"]


def test_observed_calls_are_delivered_as_the_model_wrote_them() -> None:
    broken = "<tool_call>\n<function=ls>\n</tool_call>"
    played = play(f"{call_text('rm', path='src')}\n{broken}", OBSERVE)
    assert played.told() == [
        '<< call 0 rm {"path":"src"}',
        f"<< text {broken}",
        f"<< finished tool_calls in {FAST}",
    ]
    assert [incident.detector for incident in played.sink.incidents] == ["tool.unknown", "tool.markup"]


def test_observed_loops_are_not_held() -> None:
    played = play(f"I{LOOP[:3000]}", OBSERVE)
    assert played.text == f"I{LOOP[:3000]}"
    assert {incident.grade for incident in played.sink.incidents} == {"fallback"}


def test_a_stop_string_never_leaks() -> None:
    played = play("one END two", stop=("END",), mode=PLAIN)
    assert played.told() == ["<< text one ", "<< finished stop_sequence in plain"]
    assert played.finished.stop_sequence == "END"
    assert play("one EN D", stop=("END",)).text == "one EN D"


@pytest.mark.parametrize("width", [1, 4, 100])
def test_text_that_the_end_releases_is_sent(width: int) -> None:
    played = play(Script("so EN", tail="D\ufffd", width=width), stop=("ENDING",))
    assert "".join(event.text for event in played.events if isinstance(event, TextDelta)) == "so END\ufffd"


def test_a_tag_that_the_end_completes_is_a_tag() -> None:
    text, tail = LS[:-3], LS[-3:]
    assert play(Script(text, tail=tail)).told() == [GOOD, f"<< finished tool_calls in {FAST}"]


def test_a_stop_string_inside_a_call_drops_the_call() -> None:
    played = play(f"so\n{LS}", stop=("path",))
    assert played.told() == ["<< text so", f"<< finished stop_sequence in {FAST}"]
    assert played.traces() == []


def test_an_error_before_the_first_event_is_raised() -> None:
    with pytest.raises(BackendError, match="the engine stopped"):
        play(Script("one", fail_at=0))
    with pytest.raises(BackendError, match="'bad'") as caught:
        play("one", tools=(Tool("bad", parameters={"type": "objekt"}),))
    assert caught.value.kind == "invalid_request"


async def test_a_refusal_of_the_backend_is_raised() -> None:
    backend = ScriptedBackend("one", refuse=Overloaded("full"))
    with pytest.raises(Overloaded):
        await anext(GuardedSession(REQUEST, backend, Policy(), Sink(), FAST).events())


def test_an_error_after_the_first_event_fails_the_response() -> None:
    played = play(Script("one two three", fail_at=2, width=1))
    assert played.told() == ["<< text one two", "<< failed internal: the engine stopped"]


def test_any_other_exception_fails_the_response_without_its_words() -> None:
    script = Script("one two three", fail_at=2, width=1, failure=ValueError("secret"))  # type: ignore[arg-type]
    assert play(script).told()[-1] == "<< failed internal: the response could not be completed"


async def test_a_client_that_leaves_stops_the_generation_within_one_step() -> None:
    backend, sink = ScriptedBackend(Script(f"{LS} a b c d e f g", fast=f"{call_text('rm')} a b c d")), Sink()
    async with aclosing(GuardedSession(REQUEST, backend, Policy(), sink, FAST).events()) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    generation = backend.generations[0]
    steps = generation.steps
    await asyncio.sleep(0)
    assert (generation.closes, generation.steps) == (1, steps)
    assert [closure.outcome for closure in sink.closures] == ["abandoned"]


async def test_a_cancelled_request_stops_the_generation() -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def pace() -> None:
        reached.set()
        await never.wait()

    backend = ScriptedBackend("one two", pace=pace)
    session = GuardedSession(REQUEST, backend, Policy(), Sink(), FAST)

    async def read() -> list[Event]:
        return [event async for event in session.events()]

    task = asyncio.create_task(read())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.generations[0].closes == 1


def test_an_incident_says_where_it_happened() -> None:
    played = play(Script(f"so\n{LS}", fast=f"so\n{call_text('rm')}"), sampling=Sampling(0.8, seed=7))
    incident = played.sink.incidents[0]
    assert (incident.request_id, incident.api, incident.model) == ("req_1", "openai.chat", "scripted")
    assert (incident.channel, incident.began, incident.rewound_to) == ("tool:0", 4, 2)
    assert (incident.seed, incident.temperature, incident.rebuild) == (7, 0.8, "trusted")
    found = 17 + 2 + len(token_ids("<tool_call>\n<function=rm>"))
    assert found <= incident.context < found + 4
    assert incident.capabilities["exactness"] == "bitwise"
    assert len(incident.prompt_sha256) == 64


PLAN = (Tool("plan", parameters={"properties": {"steps": {"type": "array"}}, "required": ["steps"]}),)
COMMA = call_text("plan", steps='["a", "b",]')
MENDS = Policy(repair=True)


@pytest.mark.parametrize("width", [1, 100])
def test_a_call_that_plain_decoding_breaks_too_is_mended_if_asked_for(width: int) -> None:
    played = play(Script(f"so\n{COMMA}", width=width), MENDS, tools=PLAN)
    assert played.told() == [
        "<< text so",
        '<< call 0 plan {"steps":["a","b"]}',
        "<< finished tool_calls in plain",
    ]
    assert played.traces() == [
        ">> rewind to 2 in plain, trusted",
        "<< incident tool.json rewind ended",
        "<< blame model certain",
        "<< incident tool.json repair recovered",
        "<< blame model certain",
    ]
    incident = played.sink.incidents[1]
    assert incident.evidence["mended"] == ["trailing comma"]
    assert incident.texts["before"] in COMMA
    assert incident.texts["after"] == '{"steps":["a","b"]}'


def test_a_call_is_not_mended_unless_asked_for() -> None:
    played = play(Script(f"so\n{COMMA}"), tools=PLAN)
    assert played.told()[-1] == "<< finished stop in plain"
    assert "was not sent" in played.text


def test_a_call_that_mending_does_not_save_is_not_sent() -> None:
    played = play(Script(f"so\n{COMMA.replace('steps>', 'stepz>')}", width=1), MENDS, tools=PLAN)
    assert [line for line in played.told() if "call 0" in line] == []
    assert "was not sent" in played.text


def test_a_call_cut_off_while_its_end_is_awaited_is_not_mended() -> None:
    broken = f"so\n{COMMA.removesuffix('</tool_call>')}"
    played = play(broken, MENDS, tools=PLAN)
    assert [line for line in played.told() if "call 0" in line] == []
    assert played.sink.incidents[-1].detector == "tool.truncated"
    assert played.text.endswith("A tool call was not sent: the model ended inside it.")


def test_two_calls_of_which_the_first_is_mended() -> None:
    played = play(f"{COMMA}\n{call_text('plan', steps='[]')}", MENDS, tools=PLAN)
    assert played.told() == [
        '<< call 0 plan {"steps":["a","b"]}',
        '<< call 1 plan {"steps":[]}',
        "<< finished tool_calls in plain",
    ]


def test_observing_mends_nothing() -> None:
    played = play(COMMA, Policy("observe", repair=True), tools=PLAN)
    assert played.traces()[0] == "<< incident tool.json none observed"
