"""Messages on the wire: golden frames, whole bodies, and the official client against a live server."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import anthropic
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.errors import BackendError, ContextTooLong
from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Started, TextDelta, ThinkingDelta, Timings, ToolCall, Usage
from proxy.wire.anthropic_messages import AnthropicEncoder
from tests.proxy.live import ANTHROPIC_TOOLS, USER, Gate, payloads, serving, stable
from tests.proxy.scripted import Script, ScriptedBackend, call_text
from tests.proxy.wire import messages_order
from tests.proxy.wire.frames import read_frames

REQUEST = ChatRequest("anthropic.messages", "m", (Message("user", "go"),), request_id="req_1")
END = Finished(
    "tool_calls", Usage(9, 4, 20, 3, 5), Timings(9, 2.0, 20, 40.0, 30, 12), "plain", None, ("inc_1",), (7, 8)
)
CALL = ToolCall(0, "ls", '{"path":"src"}')
EVENTS: list[Event] = [
    Started(9, 4),
    ThinkingDelta("hm"),
    ThinkingDelta("."),
    TextDelta("I\n"),
    TextDelta("look."),
    CALL,
]
LS, BAD = call_text("ls", path="src"), call_text("ls", pth="secret")
OPTIONS: dict[str, Any] = {"model": "scripted", "max_tokens": 1000, "messages": USER}


def frames(*events: Event, transcript: bool = False) -> list[str]:
    encoder = AnthropicEncoder(REQUEST, "m", transcript)
    return stable(b"".join(map(encoder.encode, events)))


def body(*events: Event, transcript: bool = False) -> dict[str, Any]:
    encoder = AnthropicEncoder(REQUEST, "m", transcript)
    for event in events:
        encoder.collect(event)
    return encoder.body()


def block(index: int, content: str, *deltas: str) -> list[str]:
    """The frames of one content block."""
    lines = ["event: content_block_start"]
    lines.append(f'data: {{"type":"content_block_start","index":{index},"content_block":{{{content}}}}}')
    for delta in deltas:
        lines.append("event: content_block_delta")
        lines.append(f'data: {{"type":"content_block_delta","index":{index},"delta":{{{delta}}}}}')
    return [*lines, "event: content_block_stop", f'data: {{"type":"content_block_stop","index":{index}}}']


def test_golden_frames() -> None:
    usage = '"input_tokens":5,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens"'
    message = (
        '{"id":"msg_0","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,'
        f'"stop_sequence":null,"usage":{{{usage}:0}}}}'
    )
    stop = '{"stop_reason":"tool_use","stop_sequence":null}'
    timings = (
        '"prompt_n":9,"prompt_ms":2.0,"predicted_n":20,"predicted_ms":40.0,"draft_n":30,"draft_n_accepted":12,"cache_n":0,'
        '"prompt_per_second":4500.0,"predicted_per_second":500.0'
    )
    assert frames(*EVENTS, END) == [
        "event: message_start",
        f'data: {{"type":"message_start","message":{message}}}',
        *block(
            0,
            '"type":"thinking","thinking":"","signature":""',
            '"type":"thinking_delta","thinking":"hm"',
            '"type":"thinking_delta","thinking":"."',
            '"type":"signature_delta","signature":"specguard"',
        ),
        *block(
            1,
            '"type":"text","text":""',
            '"type":"text_delta","text":"I\\n"',
            '"type":"text_delta","text":"look."',
        ),
        *block(
            2,
            '"type":"tool_use","id":"toolu_0","name":"ls","input":{}',
            '"type":"input_json_delta","partial_json":"{\\"path\\":\\"src\\"}"',
        ),
        "event: message_delta",
        f'data: {{"type":"message_delta","delta":{stop},"usage":{{{usage}:20}},"timings":{{{timings}}}}}',
        "event: message_stop",
        'data: {"type":"message_stop"}',
    ]


@pytest.mark.parametrize(
    ("reason", "name"),
    [("stop", "end_turn"), ("stop_sequence", "stop_sequence"), ("length", "max_tokens"), ("tool_calls", "tool_use")],
)
def test_stop_reasons(reason: Any, name: str) -> None:
    end = replace(END, reason=reason, stop_sequence="END" if reason == "stop_sequence" else None)
    assert body(end)["stop_reason"] == name
    assert body(end)["stop_sequence"] == end.stop_sequence
    stop = f'"stop_reason":"{name}","stop_sequence":{orjson.dumps(end.stop_sequence).decode()}'
    assert stop in "".join(frames(end))


def test_every_call_is_a_block_of_its_own() -> None:
    documents = payloads("\n".join(frames(CALL, replace(CALL, index=1), TextDelta("so"), END)).encode())
    opened = [d["content_block"]["type"] for d in documents if d["type"] == "content_block_start"]
    assert opened == ["tool_use", "tool_use", "text"]


EVENT = st.builds(ThinkingDelta, st.just("hm")) | st.builds(TextDelta, st.just("hi")) | st.builds(lambda: called())


def called() -> ToolCall:
    return ToolCall(0, CALL.name, CALL.arguments)


def ended(events: list[Event]) -> list[Event]:
    """As a guarded session has them."""
    calls = any(isinstance(event, ToolCall) for event in events)
    return [Started(9, 4), *events, replace(END, reason="tool_calls" if calls else "stop")]


@given(st.lists(EVENT, max_size=12))
def test_blocks_are_strictly_sequential(events: list[Event]) -> None:
    encoder = AnthropicEncoder(REQUEST, "m")
    assert messages_order.check(read_frames(b"".join(map(encoder.encode, ended(events))))).complete


@given(st.lists(EVENT, max_size=12))
def test_a_stream_and_a_body_say_the_same(events: list[Event]) -> None:
    encoder = AnthropicEncoder(REQUEST, "m")
    streamed: list[tuple[str, str]] = []
    for document in payloads(b"".join(map(encoder.encode, ended(events)))):
        if document["type"] == "content_block_start":
            streamed.append((document["content_block"]["type"], ""))
        elif document["type"] == "content_block_delta" and document["delta"]["type"] != "signature_delta":
            (said,) = (value for key, value in document["delta"].items() if key != "type")
            streamed[-1] = (streamed[-1][0], streamed[-1][1] + said)
    whole = body(*ended(events))["content"]
    assert streamed == [
        (part["type"], orjson.dumps(part["input"]).decode() if "input" in part else part[part["type"]])
        for part in whole
    ]


def test_a_failure_leaves_the_block_open() -> None:
    error = '{"type":"error","error":{"type":"api_error","message":"it broke"},"request_id":"req_1"}'
    lines = frames(Started(9, 4), TextDelta("a"), Failed("internal", "it broke"))
    assert lines[-2:] == ["event: error", f"data: {error}"]
    assert "event: content_block_stop" not in lines


def test_a_sign_of_life() -> None:
    assert AnthropicEncoder(REQUEST, "m").keep_alive() == b'event: ping\ndata: {"type":"ping"}\n\n'


def test_a_whole_body() -> None:
    whole = body(*EVENTS, END)
    assert re.fullmatch("msg_[0-9a-f]{24}", whole.pop("id"))
    assert re.fullmatch("toolu_[0-9a-f]{24}", whole["content"][2].pop("id"))
    assert whole.pop("timings")["draft_n_accepted"] == 12
    assert whole == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm.", "signature": "specguard"},
            {"type": "text", "text": "I\nlook."},
            {"type": "tool_use", "name": "ls", "input": {"path": "src"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 20,
        },
    }


def test_the_transcript_extension() -> None:
    extension = {"token_ids": [7, 8], "mode": "plain", "incidents": ["inc_1"], "discarded_tokens": 5}
    assert body(END, transcript=True)["specguard"] == extension
    assert payloads("\n".join(frames(Started(9, 4), CALL, END, transcript=True)).encode())[-2]["specguard"] == extension
    assert "specguard" not in body(END)


def test_a_body_of_a_failed_response_is_an_error() -> None:
    with pytest.raises(RequestError, match="it broke"):
        body(Started(9, 4), TextDelta("a"), Failed("internal", "it broke"))
    with pytest.raises(RequestError, match="without a result"):
        body(Started(9, 4), TextDelta("a"))


def shape(message: Any) -> list[Any]:
    """Content blocks of the official client's message, ids left out."""
    parts: list[Any] = []
    for part in message.content:
        value = {"thinking": "thinking", "text": "text", "tool_use": "input"}[part.type]
        parts.append((part.type, getattr(part, value)))
    return parts


WHOLE = [("thinking", "hm"), ("text", "I look."), ("tool_use", {"path": "src"}), ("tool_use", {"path": "lib"})]
SCRIPT = f"<think>\nhm\n</think>\n\nI look.\n{LS}\n{call_text('ls', path='lib')}"


async def test_official_client_whole_response() -> None:
    async with serving(SCRIPT) as live, live.anthropic() as client:
        thinking: Any = {"type": "enabled", "budget_tokens": 1024}
        message = await client.messages.create(**OPTIONS, tools=ANTHROPIC_TOOLS, thinking=thinking)
        assert (shape(message), message.stop_reason) == (WHOLE, "tool_use")
        assert message.usage.output_tokens == len(live.backend.generations[0].kept)
        # a turn later the client sends all of it back
        calls = [part for part in message.content if part.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "x.py"} for call in calls]
        history: Any = [*USER, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        await client.messages.create(**OPTIONS | {"messages": history}, tools=ANTHROPIC_TOOLS)
        past = live.backend.requests[1].messages[1]
        assert (past.text, past.thinking) == ("I look.", "hm")
        assert [(call.id, call.arguments) for call in past.calls] == [(call.id, call.input) for call in calls]
        assert [m.call_id for m in live.backend.requests[1].messages[2:]] == [call.id for call in calls]


async def test_official_client_stream() -> None:
    async with serving(SCRIPT) as live, live.anthropic() as client:
        async with client.messages.stream(**OPTIONS, tools=ANTHROPIC_TOOLS) as stream:
            kinds = [event.type async for event in stream]
            message = await stream.get_final_message()
        assert (shape(message), message.stop_reason) == (WHOLE, "tool_use")
        assert [getattr(part, "signature", "") for part in message.content] == ["specguard", "", "", ""]
        assert kinds.count("content_block_stop") == 4
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        assert message.usage.output_tokens == len(live.backend.generations[0].kept)


async def test_official_client_with_signs_of_life_before_the_message() -> None:
    gate = Gate()
    backend = ScriptedBackend("fine", pace=gate)
    async with (
        serving(backend, server={"keepalive_s": 0.01}) as live,
        live.anthropic() as client,
        client.messages.stream(**OPTIONS) as stream,  # headers come with the first sign of life
    ):
        assert backend.generations[0].steps == 0
        gate.let(100)
        assert await stream.get_final_text() == "fine"


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_that_was_switched_off_is_not_sent(stream: bool) -> None:
    async with serving("<think>\nsecret\n</think>\n\nhi") as live, live.anthropic() as client:
        thinking: Any = {"type": "disabled"}
        if stream:
            async with client.messages.stream(**OPTIONS, thinking=thinking) as events:
                message: Any = await events.get_final_message()
        else:
            message = await client.messages.create(**OPTIONS, thinking=thinking)
        assert shape(message) == [("text", "hi")]
        answer = await live.post("/v1/messages", stream=stream, thinking=thinking)
        assert b"secret" not in answer.body
        assert b"secret" in (await live.post("/v1/messages", stream=stream)).body


async def test_official_client_stop_sequence_and_limit() -> None:
    async with serving("one two three four") as live, live.anthropic() as client:
        message: Any = await client.messages.create(**OPTIONS, stop_sequences=["three"])
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "three")
        assert message.content[0].text == "one two "
        message = await client.messages.create(**OPTIONS | {"max_tokens": 2})
        assert message.stop_reason == "max_tokens"
        assert live.backend.requests[1].max_tokens == 2


async def test_official_client_counts_tokens_and_lists_models() -> None:
    async with serving("x") as live, live.anthropic() as client:
        counted = await client.messages.count_tokens(model="scripted", messages=USER, tools=ANTHROPIC_TOOLS)
        assert counted.input_tokens == 9
        assert [model.id async for model in client.models.list()] == ["scripted"]
        assert (await client.models.retrieve("scripted")).display_name == "scripted"


async def test_official_client_meets_errors_as_its_own() -> None:
    refusing = ScriptedBackend("x", refuse=ContextTooLong(9000, 8192))
    async with serving(refusing) as live, live.anthropic() as client:
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 9000 tokens > 8192 maximum"):
            await client.messages.create(**OPTIONS)
        with pytest.raises(anthropic.NotFoundError, match="gpt-9"):
            await client.messages.create(**OPTIONS | {"model": "gpt-9"})
        with pytest.raises(anthropic.BadRequestError, match="mcp_servers: "):
            await client.messages.create(**OPTIONS, extra_body={"mcp_servers": [{"url": "x"}]})


async def test_official_client_meets_a_failure_in_mid_stream() -> None:
    script = Script("one two three", fail_at=2, width=1, failure=BackendError("it broke"))
    async with serving(script) as live, live.anthropic() as client:
        seen = ""
        with pytest.raises(anthropic.APIError, match="it broke"):
            async with client.messages.stream(**OPTIONS) as stream:
                async for text in stream.text_stream:
                    seen += text
        assert seen.startswith("one")


async def test_official_client_sees_what_plain_decoding_says() -> None:
    async with serving(Script(f"I look.\n{LS}", fast=f"I look.\n{BAD}")) as live, live.anthropic() as client:
        async with client.messages.stream(**OPTIONS, tools=ANTHROPIC_TOOLS) as stream:
            seen = [event.model_dump_json() async for event in stream]
            message = await stream.get_final_message()
        assert not [text for text in seen if "pth" in text or "secret" in text]
        assert shape(message) == [("text", "I look."), ("tool_use", {"path": "src"})]
        assert [record.opened["detector"] for record in await live.incidents()] == ["tool.schema"]
