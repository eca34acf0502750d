"""A client that drops the model's thinking gets the same prompts as one that sends it back, and nobody else's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from policies.modes import DecodeMode
from proxy.backends.builtin import BuiltinBackend
from proxy.conversation import ChatRequest, Message, PastCall
from proxy.events import Event, Failed, Finished, TextDelta, ThinkingDelta, Timings, ToolCall, Usage
from proxy.server.kept_thinking import KeptThinking
from tests.proxy.live import (
    ANTHROPIC_TOOLS,
    CHAT,
    COUNT,
    MESSAGES,
    OPENAI_TOOLS,
    RESPONSES,
    RESPONSES_TOOLS,
    Live,
    serving,
)
from tests.proxy.scripted import Script, ScriptedBackend, ScriptedGeneration, call_text

END = Finished("stop", Usage(), Timings(), "plain")
ASK = ChatRequest("openai.chat", "m", (Message("user", "go"),))
CALL = ToolCall(0, "ls", '{"path":"src"}')
THOUGHTS = "First I look around.\nThen I act."
SCRIPT = f"<think>\n{THOUGHTS}\n</think>\n\nI look.\n{call_text('ls', path='src')}"


def say(kept: KeptThinking, *events: Event, request: ChatRequest = ASK, owner: str = "") -> None:
    listener = kept.listener(owner, request)
    for event in events:
        listener.saw(event)
    listener.ended("stop")


def turn(call: ToolCall | None, text: str, *, prefix: str = "call_", thinking: str = "") -> Message:
    calls = () if call is None else (PastCall(prefix + call.id, call.name, json.loads(call.arguments)),)
    return Message("assistant", text, thinking, calls)


def thought(kept: KeptThinking, *messages: Message, owner: str = "") -> list[str]:
    request, count = kept.restored(owner, replace(ASK, messages=messages))
    assert [replace(m, thinking="") for m in request.messages] == [replace(m, thinking="") for m in messages]
    assert count == sum(new != old for new, old in zip(request.messages, messages, strict=True))
    return [message.thinking for message in request.messages]


def test_a_turn_with_calls_is_known_by_its_first_one() -> None:
    kept = KeptThinking()
    say(kept, ThinkingDelta("hm"), ThinkingDelta("."), TextDelta("I look."), CALL, replace(CALL, id="2"), END)
    for prefix in ("call_", "toolu_", ""):
        assert thought(kept, Message("user", "other"), turn(CALL, " I\nlook. ", prefix=prefix)) == ["", "hm."]
    assert thought(kept, turn(replace(CALL, id="other"), "I look.")) == [""]
    assert thought(kept, turn(CALL, "I hack.")) == [""]
    assert thought(kept, turn(replace(CALL, name="rm"), "I look.")) == [""]


def test_a_turn_without_calls_is_known_by_what_was_visible_before() -> None:
    kept = KeptThinking()
    say(kept, ThinkingDelta("hm"), TextDelta("Hello.\n"), END)
    assert thought(kept, Message("user", "go"), turn(None, "Hello.")) == ["", "hm"]
    assert thought(kept, Message("user", "stop"), turn(None, "Hello.")) == ["", ""]
    assert thought(kept, Message("system", "x"), Message("user", "go"), turn(None, "Hello.")) == ["", "", ""]
    later = (Message("user", "go"), turn(None, "Hello."), Message("user", "go"))
    say(kept, ThinkingDelta("again"), TextDelta("Hello."), END, request=replace(ASK, messages=later))
    assert thought(kept, *later, turn(None, "Hello.")) == ["", "hm", "", "again"]


def test_calls_before_a_turn_are_part_of_what_was_visible() -> None:
    kept, deep = KeptThinking(), '{"path":' + "[" * 300 + "]" * 300 + "}"
    for arguments in (CALL.arguments, deep):
        before = (Message("user", "go"), turn(replace(CALL, arguments=arguments), ""), Message("user", "and?"))
        say(kept, ThinkingDelta("hm"), TextDelta("Done."), END, request=replace(ASK, messages=before))
        assert thought(kept, *before, turn(None, "Done."))[-1] == "hm"
    other = turn(replace(CALL, arguments='{"path":"etc"}'), "")
    assert thought(kept, before[0], other, before[2], turn(None, "Done."))[-1] == ""


def test_what_a_client_sends_stays() -> None:
    kept = KeptThinking()
    say(kept, ThinkingDelta("hm"), CALL, END)
    assert thought(kept, turn(CALL, "", thinking="mine"), turn(CALL, "")) == ["mine", "hm"]


def test_other_keys_get_nothing() -> None:
    kept = KeptThinking()
    say(kept, ThinkingDelta("hm"), CALL, END, owner="a")
    say(kept, ThinkingDelta("hm"), TextDelta("Hello."), END, owner="a")
    talk = (Message("user", "go"), turn(None, "Hello."), turn(CALL, ""))
    assert thought(kept, *talk, owner="a") == ["", "hm", "hm"]
    assert thought(kept, *talk, owner="b") == ["", "", ""]


def test_a_response_that_failed_or_did_not_think_leaves_nothing() -> None:
    kept = KeptThinking()
    say(kept, ThinkingDelta("hm"), CALL, Failed("internal", "it broke"))
    say(kept, TextDelta("Hello."), END)
    assert thought(kept, Message("user", "go"), turn(CALL, ""), turn(None, "Hello.")) == ["", "", ""]


def test_the_turn_used_longest_ago_goes_first() -> None:
    calls = [replace(CALL, id=name) for name in "abc"]
    for kept in (KeptThinking(turns=2), KeptThinking(chars=5)):
        for call in calls[:2]:
            say(kept, ThinkingDelta("hm"), call, END)
        assert thought(kept, turn(calls[0], "")) == ["hm"]
        say(kept, ThinkingDelta("hm"), calls[2], END)
        assert [thought(kept, turn(call, "")) for call in calls] == [["hm"], [""], ["hm"]]
    say(kept, ThinkingDelta("longer than that"), calls[1], END)
    assert [thought(kept, turn(call, "")) for call in calls] == [[""], [""], [""]]
    for _ in range(3):  # the same turn counts once
        say(kept, ThinkingDelta("hm"), calls[1], END)
    say(kept, ThinkingDelta("hm"), calls[0], END)
    assert [thought(kept, turn(call, "")) for call in calls] == [["hm"], ["hm"], [""]]


def _without_thinking(path: str, answer: Any) -> dict[str, Any]:
    """The next request of a client that drops what it cannot show. Keys as in the body of the first one."""
    user: dict[str, Any] = {"role": "user", "content": "go"}
    if path == CHAT:
        said = {name: answer["choices"][0]["message"][name] for name in ("role", "content", "tool_calls")}
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "a.py"}
        return {"messages": [user, said, result]}
    if path == RESPONSES:
        items = [item for item in answer["output"] if item["type"] != "reasoning"]
        output = {"type": "function_call_output", "call_id": items[-1]["call_id"], "output": "a.py"}
        return {"input": [user, *items, output]}
    blocks = [block for block in answer["content"] if block["type"] != "thinking"]
    result = {"type": "tool_result", "tool_use_id": blocks[-1]["id"], "content": "a.py"}
    return {"messages": [user, {"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]}


TOOLS_OF = {CHAT: OPENAI_TOOLS, RESPONSES: RESPONSES_TOOLS, MESSAGES: ANTHROPIC_TOOLS}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_every_api_gives_back_what_its_client_dropped(path: str) -> None:
    keys = ("key-one", "key-two")
    async with serving(ScriptedBackend(SCRIPT), server={"keys": keys}) as live:
        first = await _ask(live, path, keys[0])
        assert THOUGHTS in first.body.decode().replace("\\n", "\n")
        body = _without_thinking(path, first.json)
        again = await _ask(live, path, keys[0], **body)
        assert again.headers["x-specguard-thinking-restored"] == "1"
        said = live.backend.requests[1].messages[1]
        assert (said.thinking, said.text, len(said.calls)) == (THOUGHTS, "I look.", 1)
        stranger = await _ask(live, path, keys[1], **body)
        assert "x-specguard-thinking-restored" not in stranger.headers
        assert live.backend.requests[2].messages[1].thinking == ""


async def _ask(live: Live, path: str, key: str, **fields: Any) -> Any:
    start: dict[str, Any] = {"input": "go"} if path == RESPONSES else {"messages": [{"role": "user", "content": "go"}]}
    start |= {"max_tokens": 99} if path == MESSAGES else {}
    body = {"model": "scripted", "tools": TOOLS_OF[path]} | start | fields
    answer = await live.ask("POST", path, body, x_api_key=key)
    assert answer.status == 200
    return answer


class ThinksFirst(BuiltinBackend):
    """The first response is written, the others are the embedded model's; all prompts are its chat template's."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[tuple[int, ...]] = []

    async def generate(self, request: ChatRequest, mode: DecodeMode) -> Any:
        generation = await super().generate(request, mode)
        self.prompts.append(generation.prompt_ids)
        if len(self.prompts) > 1:
            return generation
        await generation.close()
        backend = ScriptedBackend(Script(SCRIPT))
        written: ScriptedGeneration = await backend.generate(request, mode)
        return written


async def test_a_client_that_drops_thinking_has_the_prefix_of_one_that_keeps_it() -> None:
    """To the token: the second prompt of the one is wholly taken over by that of the other."""
    backend = ThinksFirst()
    name = "specguard-embedded"
    fields: dict[str, Any] = {"model": name, "system": "Be brief. " * 40}
    async with serving(backend) as live:  # type: ignore[arg-type]
        first = await _ask(live, MESSAGES, "", **fields)
        dropped = _without_thinking(MESSAGES, first.json)
        kept = json.loads(json.dumps(dropped))
        kept["messages"][1]["content"] = first.json["content"]
        common = {"model": name, "tools": ANTHROPIC_TOOLS} | fields
        counts = [(await live.ask("POST", COUNT, common | body)).json["input_tokens"] for body in (dropped, kept)]
        answers = [await _ask(live, MESSAGES, "", **fields, **body) for body in (dropped, kept)]
        assert [answer.headers.get("x-specguard-thinking-restored") for answer in answers] == ["1", None]
        assert backend.prompts[1] == backend.prompts[2]
        assert counts == [len(backend.prompts[1])] * 2
        prompt = backend.engine.tokenizer.decode(list(backend.prompts[1]))
        assert f"<think>\n{THOUGHTS}\n</think>\n\nI look." in prompt
        usage = answers[1].json["usage"]
        where_it_stood = len(backend.prompts[0])
        assert usage["cache_read_input_tokens"] >= where_it_stood
        assert len(backend.prompts[1]) - usage["cache_read_input_tokens"] <= 64  # as far as checkpoints reach
