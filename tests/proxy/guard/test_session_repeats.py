"""Sessions whose model repeats itself in calls, tags or over requests, and engines that stop: as transcripts."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from engine.engine import Engine
from policies.modes import PLAIN
from policies.policy import Policy
from proxy.backends.builtin import BuiltinBackend
from proxy.backends.errors import BackendError
from proxy.conversation import Message, PastCall
from proxy.events import Event
from proxy.guard.session import GuardedSession
from tests.proxy.played import LS, REQUEST, Played, Sink, play
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text, cut
from tests.virtual_time import run

OBSERVE = Policy("observe")
LIST = ("ls", {"path": "src"}, "a.py")
MOVE = ("move", {"steps": 1}, "error: wall")


def history(*steps: tuple[str, dict[str, Any], str]) -> tuple[Message, ...]:
    messages = [Message("user", "go")]
    for n, (name, arguments, result) in enumerate(steps):
        messages.append(Message("assistant", f"try {n}", calls=(PastCall(f"c{n}", name, arguments),)))
        messages.append(Message("tool", result, call_id=f"c{n}"))
    return tuple(messages)


# Across requests


def test_two_equal_calls_are_nothing() -> None:
    played = play("fine", messages=history(LIST, LIST))
    assert played.told() == ["<< text fine", f"<< finished stop in {FAST}"]
    assert played.traces() == []


def test_a_loop_is_served_plainly_from_the_third_time_on() -> None:
    played = play(Script("I stop here.", fast=LS), messages=history(LIST, LIST, LIST))
    assert played.told() == ["<< text I stop here.", "<< finished stop in plain"]
    assert played.traces() == ["<< incident loop.history start recovered", "<< blame unknown none"]
    incident = played.sink.incidents[0]
    assert (incident.mode_before, incident.mode_after, incident.channel) == (str(FAST), "plain", "session")
    assert (incident.grade, incident.evidence["tools"], incident.evidence["copies"]) == ("fallback", ["ls"], 3)
    assert played.finished.incidents == (incident.id,)


def test_a_loop_that_plain_decoding_goes_on_with_is_the_models() -> None:
    played = play(LS, messages=history(LIST, LIST, LIST))
    assert played.told()[-1] == "<< finished tool_calls in plain"
    assert played.traces() == ["<< incident loop.history start observed", "<< blame model likely"]


def test_a_cycle_goes_on_with_its_first_step() -> None:
    steps = [LIST, MOVE] * 3
    assert play(LS, messages=history(*steps)).traces()[1] == "<< blame model likely"
    assert play(call_text("move", steps="1"), messages=history(*steps)).traces()[1] == "<< blame unknown none"


def test_a_server_that_is_plain_already_only_tells() -> None:
    played = play(LS, mode=PLAIN, messages=history(*[LIST] * 4))
    assert played.traces() == ["<< incident loop.history none observed", "<< blame model likely"]


def test_many_copies_are_grave_but_an_agent_that_waits_is_let_be() -> None:
    """Whoever waits for something makes the same call for long; what comes back tells the time."""
    polls = [("ls", {"path": "src"}, f"still running, {n}s") for n in range(50)]
    played = play(LS, messages=history(*polls))
    assert played.told()[-1] == "<< finished tool_calls in plain"
    incident = played.sink.incidents[0]
    assert (incident.grade, incident.action, incident.evidence["copies"]) == ("abort", "start", 50)


def test_an_endless_loop_is_ended_with_a_notice_and_without_a_step() -> None:
    assert play(LS, messages=history(*[LIST] * 19)).told()[-1] == "<< finished tool_calls in plain"
    played = play(LS, messages=history(*[LIST] * 20))
    assert played.told() == [
        "<< text [specguard] Stopped: the same calls (`ls`) had the same results 20 times in a row. "
        "Say how to go on, or that it should continue as it did.",
        f"<< finished stop in {FAST}",
    ]
    assert played.traces() == ["<< incident loop.history end ended", "<< blame model likely"]
    assert played.generation.steps == 0


def test_what_the_user_says_then_begins_anew() -> None:
    said = (*history(*[LIST] * 20), Message("assistant", "[specguard] Stopped."), Message("user", "go on"))
    assert play(LS, messages=said).traces() == []


def test_the_limit_can_be_set_and_lifted() -> None:
    assert "Stopped" in play(LS, Policy(max_call_cycles=5), messages=history(*[LIST] * 5)).text
    assert play(LS, Policy(max_call_cycles=0), messages=history(*[LIST] * 99)).text == ""


@pytest.mark.parametrize(("limit", "requests"), [(5, 6), (20, 21)])
def test_an_agent_that_never_stops_is_stopped(limit: int, requests: int) -> None:
    """Each answer is a call, each call has the same result: what the agent sends next is the whole history again."""
    steps: list[tuple[str, dict[str, Any], str]] = []
    modes: list[str] = []
    for _ in range(40):
        played = play(LS, Policy(max_call_cycles=limit), messages=history(*steps))
        modes.append(played.finished.mode)
        if played.finished.reason != "tool_calls":
            break
        steps.append(LIST)
    assert len(modes) == requests
    assert played.text.startswith("[specguard] Stopped")
    assert modes[:3] == [str(FAST)] * 3
    assert set(modes[3:-1]) == {"plain"}


def test_an_observer_serves_a_loop_as_anything_else() -> None:
    played = play(LS, OBSERVE, messages=history(*[LIST] * 30))
    assert played.told()[-1] == f"<< finished tool_calls in {FAST}"
    assert played.traces() == ["<< incident loop.history none observed", "<< blame unknown none"]


# In one response


def test_a_call_that_is_made_again_and_again_is_decoded_again() -> None:
    played = play(Script(f"{LS}\n{LS}\nDone.", fast=f"{LS}\n" * 9))
    call = 'ls {"path":"src"}'
    assert played.told() == [
        f"<< call 0 {call}",
        f"<< call 1 {call}",
        "<< text Done.",
        "<< finished tool_calls in plain",
    ]
    assert played.traces()[-2:] == ["<< incident loop.calls rewind recovered", "<< blame speculation certain"]


def test_a_model_that_cannot_stop_calling_is_ended_after_the_fourth() -> None:
    played = play(f"{LS}\n" * 40)
    assert [line.split(" ")[1] for line in played.told()] == ["call"] * 4 + ["text", "finished"]
    assert played.told()[-2:] == [
        "<< text [specguard] Stopped: the model called tool `ls` 5 times with the same arguments.",
        "<< finished tool_calls in plain",
    ]
    assert played.traces()[-2:] == ["<< incident loop.calls rewind ended", "<< blame model likely"]


def test_calls_of_other_arguments_are_as_many_as_the_model_likes() -> None:
    played = play("\n".join(call_text("move", steps=str(n)) for n in range(30)))
    assert len([line for line in played.told() if "call" in line.split(" ")[1]]) == 30
    assert played.traces() == []


def test_a_structural_token_that_repeats_is_decoded_again() -> None:
    played = play(Script("so it is done", fast="so" + "<|fim_middle|>" * 40, width=40))
    assert played.told() == ["<< text so it is done", "<< finished stop in plain"]
    assert played.sink.incidents[0].detector == "struct.run"
    assert played.traces()[-1] == "<< blame speculation certain"


def test_a_structural_token_of_the_model_itself_ends_the_response() -> None:
    played = play("so " + "</think>" * 40)
    assert played.text.endswith("\n\n[specguard] Stopped: the model wrote the token </think> 16 times in a row.")
    assert played.finished.reason == "stop"


def test_thinking_that_never_settles_ends_the_response() -> None:
    played = play("".join(f"<think>{n}</think>{n} " for n in range(80)))
    assert played.text.endswith("\n\n[specguard] Stopped: the model opened its thinking 32 times again.")


def test_an_element_that_repeats_is_decoded_again() -> None:
    tools = (replace(REQUEST.tools[0], parameters={"type": "object", "properties": {"path": {"type": "array"}}}),)
    good, bad = call_text("ls", path='["one"]'), call_text("ls", path=json.dumps(["symptoms"] * 100))
    played = play(Script(good, fast=bad), tools=tools)
    assert played.told() == ['<< call 0 ls {"path":["one"]}', "<< finished tool_calls in plain"]
    assert played.sink.incidents[0].detector == "loop.elements"
    again = play(bad, tools=tools)
    assert again.told()[0].startswith('<< call 0 ls {"path":["symptoms",')  # the model wants it, and it is valid


def test_an_answer_in_another_script_is_delivered() -> None:
    text = "Это ответ на русском языке, и он довольно длинный. " * 9
    played = play(text)
    assert played.text == text
    assert played.traces() == []


@pytest.mark.parametrize("text", [f"{LS}\n" * 9, "x" + "<|fim_middle|>" * 40, "<think>a</think>b" * 50])
def test_an_observer_delivers_all_of_it(text: str) -> None:
    played = play(text, OBSERVE)
    assert {incident.action for incident in played.sink.incidents} == {"none"}
    assert played.finished.token_ids == play(text, OBSERVE, mode=PLAIN).finished.token_ids
    assert len(played.finished.token_ids) == len(cut(text))


# Stalls


class Pace:
    """Paces a scripted backend: so many seconds before each step, the last for all that follow."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = seconds
        self._steps = 0

    async def __call__(self) -> None:
        at = min(self._steps, len(self._seconds) - 1)
        self._steps += 1
        await asyncio.sleep(self._seconds[at])


def paced(text: str, *seconds: float, policy: Policy | None = None) -> tuple[Played, float]:
    """The response, and the second at which it was over."""
    backend, sink = ScriptedBackend(text, pace=Pace(*seconds)), Sink()

    async def work() -> tuple[list[Event], float]:
        session = GuardedSession(REQUEST, backend, policy or Policy(), sink, PLAIN)
        events = [event async for event in session.events()]
        return events, asyncio.get_running_loop().time()

    events, ended = run(work())
    return Played(events, sink, backend.generations[0]), ended


def test_an_engine_that_stops_fails_the_response() -> None:
    played, ended = paced("one two three four", 1, 1, 1e9)
    assert played.told() == [
        "<< text one two",
        "<< failed internal: the engine gave no token for 300 s; the response cannot be completed",
    ]
    assert played.traces() == [
        "<< incident stall.step none observed",
        "<< blame unknown none",
        "<< incident stall.step end ended",
        "<< blame unknown none",
    ]
    assert [incident.evidence["waited_s"] for incident in played.sink.incidents] == [30.0, 300.0]
    assert ended == 302


def test_an_engine_that_only_paused_is_recorded_and_goes_on() -> None:
    played, _ = paced("one two three four", 1, 1, 90, 1)
    assert played.told() == ["<< text one two three four", "<< finished stop in plain"]
    assert played.traces() == ["<< incident stall.step none observed", "<< blame unknown none"]


def test_after_a_call_was_sent_a_stall_is_no_error() -> None:
    """The client acts on the call already: an error now would make some ask for it again."""
    played, _ = paced(f"{LS}\nand", *[0.1] * len(cut(LS)), 1e9)
    assert played.told()[-1] == "<< finished tool_calls in plain"
    assert played.sink.incidents[-1].action == "end"


def test_an_engine_that_never_begins_fails_with_a_status() -> None:
    with pytest.raises(BackendError, match="no token for 600 s"):
        paced("one", 1e9)


def test_an_observer_waits() -> None:
    played, ended = paced("one two", 1, 5000, policy=OBSERVE)
    assert played.told()[-1] == "<< finished stop in plain"
    assert ended > 5000
    assert [incident.action for incident in played.sink.incidents] == ["none"]


def test_nobody_waits_for_a_generation_that_hangs_in_closing() -> None:
    backend, sink = ScriptedBackend("one two", pace=Pace(1, 1e9)), Sink()
    closed: list[float] = []

    async def work() -> float:
        loop = asyncio.get_running_loop()
        generation = await backend.generate(REQUEST, PLAIN)
        close = generation.close

        async def late() -> None:
            await asyncio.sleep(10_000)
            await close()
            closed.append(loop.time())

        generation.close = late  # type: ignore[method-assign]

        async def again(*_: Any) -> Any:
            return generation

        backend.generate = again  # type: ignore[method-assign]
        assert [event async for event in GuardedSession(REQUEST, backend, Policy(), sink, PLAIN).events()]
        ended = loop.time()
        await asyncio.sleep(20_000)
        return ended

    assert run(work()) < 1000
    assert closed
    assert closed[0] > 10_000


def test_a_step_of_the_built_in_engine_that_hangs_is_seen_and_nothing_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device that does not answer: the thread cannot be interrupted, but the client is told, and a later response is
    served when the device has come back."""
    released, steps, sink = threading.Event(), iter(range(10**6)), Sink()
    step = Engine.step

    def hang(engine: Engine, turns: Any) -> Any:
        if next(steps) == 3:
            released.wait(60)
        return step(engine, turns)

    request = replace(REQUEST, tools=(), max_tokens=8)

    async def work() -> tuple[list[str], list[str]]:
        backend = BuiltinBackend()
        await backend.start()
        monkeypatch.setattr(Engine, "step", hang)
        try:
            session = GuardedSession(request, backend, Policy(), sink, PLAIN)
            kinds = [type(event).__name__ async for event in session.events()]
            released.set()
            again = GuardedSession(request, backend, Policy(), Sink(), PLAIN)
            return kinds, [type(event).__name__ async for event in again.events()]
        finally:
            released.set()
            await backend.stop()

    # the worker's upkeep looks every 10 s, so that the thread gets this long thirty times before its step is lost
    first, second = run(work(), patience_s=0.5)
    assert first[-1] == "Failed"
    assert second[-1] == "Finished"
    assert [incident.action for incident in sink.incidents] == ["none", "end"]
    assert len(sink.closures) == 2
