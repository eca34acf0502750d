"""Chat completions on the wire: golden frames, whole bodies, and the official client against a live server."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import openai
import pytest

from proxy.backends.base import BackendError, ContextTooLong
from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Started, TextDelta, ThinkingDelta, Timings, ToolCall, Usage
from proxy.wire.openai_chat import OpenAIChatEncoder
from tests.proxy.live import OPENAI_TOOLS, USER, serving, stable
from tests.proxy.scripted import Script, ScriptedBackend, call_text

REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),), include_usage=True, request_id="req_1")
TIMINGS = Timings(9, 2.0, 20, 40.0, 30, 12)
END = Finished("tool_calls", Usage(9, 4, 20, 3, 5), TIMINGS, "plain", None, ("inc_1",), (7, 8))
CALL = ToolCall(0, "ls", '{"path":"src"}')
EVENTS: list[Event] = [Started(9, 4), ThinkingDelta("hm"), TextDelta("I\n"), TextDelta("look."), CALL, END]
USAGE = (
    '"usage":{"prompt_tokens":9,"completion_tokens":20,"total_tokens":29,'
    '"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}'
)
LS, BAD = call_text("ls", path="src"), call_text("ls", pth="secret")


def frames(*events: Event, request: ChatRequest = REQUEST, transcript: bool = False) -> list[str]:
    encoder = OpenAIChatEncoder(request, "m", transcript)
    return stable(b"".join(map(encoder.encode, events)))


def chunk(choice: str, extra: str = "") -> str:
    head = '{"id":"chatcmpl-0","object":"chat.completion.chunk","created":0,"model":"m"'
    return f'data: {head},"choices":[{choice}]{extra}}}'


def delta(fields: str, reason: str = "null") -> str:
    return f'{{"index":0,"delta":{{{fields}}},"logprobs":null,"finish_reason":{reason}}}'


def body(*events: Event, transcript: bool = False) -> dict[str, Any]:
    encoder = OpenAIChatEncoder(REQUEST, "m", transcript)
    for event in events:
        encoder.collect(event)
    return encoder.body()


def test_golden_frames() -> None:
    timings = (
        '"prompt_n":9,"prompt_ms":2.0,"predicted_n":20,"predicted_ms":40.0,"draft_n":30,"draft_n_accepted":12,'
        '"prompt_per_second":4500.0,"predicted_per_second":500.0'
    )
    call = '{"index":0,"id":"call_0","type":"function","function":{"name":"ls","arguments":"{\\"path\\":\\"src\\"}"}}'
    assert frames(*EVENTS) == [
        chunk(delta('"role":"assistant","content":""')),
        chunk(delta('"reasoning_content":"hm"')),
        chunk(delta('"content":"I\\n"')),
        chunk(delta('"content":"look."')),
        chunk(delta(f'"tool_calls":[{call}]')),
        chunk(delta("", '"tool_calls"'), f',"timings":{{{timings}}}'),
        chunk("", f",{USAGE}"),
        "data: [DONE]",
    ]


def test_usage_only_on_request() -> None:
    lines = frames(*EVENTS, request=replace(REQUEST, include_usage=False))
    assert '"usage"' not in "".join(lines)
    assert lines == [line for line in frames(*EVENTS) if '"usage"' not in line]


@pytest.mark.parametrize(
    ("reason", "name"),
    [("stop", "stop"), ("stop_sequence", "stop"), ("length", "length"), ("tool_calls", "tool_calls")],
)
def test_finish_reasons(reason: Any, name: str) -> None:
    end = replace(END, reason=reason)
    assert f'"finish_reason":"{name}"' in frames(Started(9, 0), end)[1]
    assert body(end)["choices"][0]["finish_reason"] == name


def test_a_frame_cannot_be_torn_apart() -> None:
    lines = frames(TextDelta('a\n\r\u2028\n\ndata: [DONE]\n"\x00'))
    assert len(lines) == 1
    assert lines[0].startswith("data: {")


def test_a_sign_of_life_opens_the_message_once() -> None:
    encoder = OpenAIChatEncoder(REQUEST, "m")
    sent = encoder.keep_alive() + encoder.keep_alive() + encoder.encode(Started(9, 4)) + encoder.encode(TextDelta("a"))
    assert stable(sent) == [
        chunk(delta('"role":"assistant","content":""')),
        chunk(delta("")),
        chunk(delta('"content":"a"')),
    ]


def test_a_failure_is_the_last_frame() -> None:
    error = '{"error":{"message":"it broke","type":"server_error","param":null,"code":"internal_error"}}'
    assert frames(Failed("internal", "it broke")) == [f"data: {error}"]


def test_the_transcript_extension() -> None:
    extension = {"token_ids": [7, 8], "mode": "plain", "incidents": ["inc_1"], "discarded_tokens": 5}
    assert body(*EVENTS, transcript=True)["specguard"] == extension
    assert '"specguard":{"token_ids":[7,8],"mode":"plain"' in frames(*EVENTS, transcript=True)[5]
    assert "specguard" not in body(*EVENTS)


def test_a_whole_body() -> None:
    whole = body(*EVENTS)
    assert re.fullmatch("chatcmpl-[0-9a-f]{24}", whole["id"])
    assert (whole["object"], whole["model"]) == ("chat.completion", "m")
    (choice,) = whole["choices"]
    call_id = choice["message"]["tool_calls"][0].pop("id")
    assert re.fullmatch("call_[0-9a-f]{24}", call_id)
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "I\nlook.",
            "refusal": None,
            "reasoning_content": "hm",
            "tool_calls": [{"type": "function", "function": {"name": "ls", "arguments": '{"path":"src"}'}}],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }
    assert whole["usage"]["total_tokens"] == 29


def test_content_of_a_body_without_text() -> None:
    assert body(CALL, END)["choices"][0]["message"]["content"] is None
    assert body(END)["choices"][0]["message"] == {"role": "assistant", "content": "", "refusal": None}


def test_a_body_of_a_failed_response_is_an_error() -> None:
    with pytest.raises(RequestError, match="it broke"):
        body(Started(9, 4), TextDelta("a"), Failed("internal", "it broke"))
    with pytest.raises(RequestError, match="without a result"):
        body(Started(9, 4), TextDelta("a"))


def test_times_that_are_zero() -> None:
    assert body(replace(END, timings=Timings()))["timings"]["predicted_per_second"] == 0.0


async def test_official_client_whole_response() -> None:
    async with serving(f"<think>\nhm\n</think>\n\nI look.\n{LS}\n{LS}") as live, live.openai() as client:
        answer = await client.chat.completions.create(model="scripted", messages=USER, tools=OPENAI_TOOLS)
        message = answer.choices[0].message
        assert (message.content, answer.choices[0].finish_reason) == ("I look.", "tool_calls")
        assert message.model_extra == {"reasoning_content": "hm"}
        assert message.tool_calls is not None
        assert [(c.type, c.function.name, c.function.arguments) for c in message.tool_calls] == [  # type: ignore[union-attr]
            ("function", "ls", '{"path":"src"}')
        ] * 2
        assert len({call.id for call in message.tool_calls}) == 2
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(live.backend.generations[0].kept)
        # a turn later the client sends all of it back
        results = [{"role": "tool", "tool_call_id": call.id, "content": "x.py"} for call in message.tool_calls]
        history = [*USER, message.model_dump(), *results]
        await client.chat.completions.create(model="scripted", messages=history, tools=OPENAI_TOOLS)
        past = live.backend.requests[1].messages[1]
        assert (past.text, past.thinking) == ("I look.", "hm")
        assert [(call.id, call.arguments) for call in past.calls] == [
            (call.id, {"path": "src"}) for call in message.tool_calls
        ]


async def test_official_client_stream() -> None:
    async with serving(f"<think>\nhm\n</think>\n\nI look.\n{LS}") as live, live.openai() as client:
        stream = client.chat.completions.stream(
            model="scripted",
            messages=USER,
            tools=OPENAI_TOOLS,
            stream_options={"include_usage": True},
        )
        async with stream as events:
            kinds = [event.type async for event in events]
            final = await events.get_final_completion()
        choice = final.choices[0]
        assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
        assert choice.message.tool_calls is not None
        assert choice.message.tool_calls[0].function.arguments == '{"path":"src"}'
        assert final.usage is not None
        assert final.usage.completion_tokens_details is not None
        assert final.usage.completion_tokens_details.reasoning_tokens == 4
        assert kinds.count("tool_calls.function.arguments.done") == 1
        assert kinds.index("content.delta") < kinds.index("tool_calls.function.arguments.delta")


async def test_official_client_options() -> None:
    async with serving("one two three four") as live, live.openai() as client:
        answer = await client.chat.completions.create(
            model="scripted",
            messages=USER,
            max_completion_tokens=3,
            temperature=0.5,
            seed=7,
            stop=["four"],
        )
        assert answer.choices[0].finish_reason == "length"
        request = live.backend.requests[0]
        assert (request.max_tokens, request.sampling.temperature, request.sampling.seed) == (3, 0.5, 7)
        answer = await client.chat.completions.create(model="scripted", messages=USER, stop="three")
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two ", "stop")


async def test_official_client_models() -> None:
    async with serving("x") as live, live.openai() as client:
        assert [model.id async for model in client.models.list()] == ["scripted"]
        assert (await client.models.retrieve("scripted")).owned_by == "specguard"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")


async def test_official_client_meets_errors_as_its_own() -> None:
    refusing = ScriptedBackend("x", refuse=ContextTooLong(9000, 8192))
    async with serving(refusing) as live, live.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="scripted", messages=USER)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="gpt-9", messages=USER)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(
                model="scripted",
                messages=USER,
                response_format={"type": "json_object"},
            )
        assert bad.value.param == "response_format"


async def test_official_client_meets_a_failure_in_mid_stream() -> None:
    script = Script("one two three", fail_at=2, width=1, failure=BackendError("it broke"))
    async with serving(script) as live, live.openai() as client:
        stream = await client.chat.completions.create(model="scripted", messages=USER, stream=True)
        seen = ""
        with pytest.raises(openai.APIError, match="it broke"):
            async for piece in stream:
                seen += piece.choices[0].delta.content or ""
        assert seen.startswith("one")


async def test_official_client_sees_what_plain_decoding_says() -> None:
    async with serving(Script(f"I look.\n{LS}", fast=f"I look.\n{BAD}")) as live, live.openai() as client:
        async with client.chat.completions.stream(
            model="scripted",
            messages=USER,
            tools=OPENAI_TOOLS,
        ) as events:
            seen = [event.model_dump_json() async for event in events]
            final = await events.get_final_completion()
        assert not [text for text in seen if "pth" in text or "secret" in text]
        assert final.choices[0].message.tool_calls is not None
        assert final.choices[0].message.tool_calls[0].function.arguments == '{"path":"src"}'
        assert [record.opened["detector"] for record in await live.incidents()] == ["tool.schema"]
