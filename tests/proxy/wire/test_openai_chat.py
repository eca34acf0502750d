"""Chat completions on the wire: golden frames, whole bodies, and the official client against a live server."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import openai
import pytest

from proxy.backends.builtin import BuiltinBackend
from proxy.backends.errors import BackendError, ContextTooLong
from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Logprob, Started, TextDelta, ThinkingDelta, Timings, ToolCall, Usage
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
        '"prompt_n":9,"prompt_ms":2.0,"predicted_n":20,"predicted_ms":40.0,"draft_n":30,"draft_n_accepted":12,"cache_n":0,'
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
    said = CALL if reason == "tool_calls" else TextDelta("so")
    assert f'"finish_reason":"{name}"' in frames(Started(9, 0), said, end)[2]
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


PART = Logprob(b"\xe2\x82", -0.5, ((b"\xe2\x82", -0.5), (b"a", -2.0)))
REST = Logprob(b"\xac", -0.25)
PART_JSON = (
    '{"token":"\ufffd","logprob":-0.5,"bytes":[226,130],"top_logprobs":'
    '[{"token":"\ufffd","logprob":-0.5,"bytes":[226,130]},{"token":"a","logprob":-2.0,"bytes":[97]}]}'
)
REST_JSON = '{"token":"\ufffd","logprob":-0.25,"bytes":[172],"top_logprobs":[]}'


def test_golden_logprobs() -> None:
    asked = replace(REQUEST, logprobs=2)
    lines = frames(ThinkingDelta("hm"), TextDelta("\u20ac", (PART, REST)), TextDelta("!"), CALL, request=asked)
    entries = f'"logprobs":{{"content":[{PART_JSON},{REST_JSON}],"refusal":null}}'
    assert lines[1] == chunk(f'{{"index":0,"delta":{{"content":"\u20ac"}},{entries},"finish_reason":null}}')
    assert [line.count('"logprobs":null') for line in lines] == [1, 0, 1, 1]


def test_logprobs_of_a_body() -> None:
    encoder = OpenAIChatEncoder(replace(REQUEST, logprobs=2), "m")
    for event in (TextDelta("\u20ac", (PART, REST)), CALL, TextDelta("!", (Logprob(b"!", -1.0),)), END):
        encoder.collect(event)
    found = encoder.body()["choices"][0]["logprobs"]
    assert [(entry["bytes"], len(entry["top_logprobs"])) for entry in found["content"]] == [
        ([226, 130], 2),
        ([172], 0),
        ([33], 0),
    ]
    asked = OpenAIChatEncoder(replace(REQUEST, logprobs=0), "m")
    for event in (CALL, END):
        asked.collect(event)
    assert asked.body()["choices"][0]["logprobs"] == {"content": [], "refusal": None}


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


LOGPROBS: dict[str, Any] = {"model": "scripted", "messages": USER, "logprobs": True, "top_logprobs": 2}


@pytest.mark.parametrize("fast", [None, f"I look.\n{BAD}"], ids=["sound", "after a rewind"])
async def test_official_client_logprobs(fast: str | None) -> None:
    """Of the content alone, each token once, whatever was held back or thrown away."""
    script = Script(f"<think>\nhm\n</think>\n\nI look.\n{LS}\nand on", fast=fast and f"<think>\nhm\n</think>\n\n{fast}")
    async with serving(script) as live, live.openai() as client:
        answer = await client.chat.completions.create(**LOGPROBS, tools=OPENAI_TOOLS)
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.content is not None
        tokens = [entry.token for entry in logprobs.content]
        assert tokens == ["I", " look", ".", "and", " on"]
        assert answer.choices[0].message.content == "I look.and on"
        for entry in logprobs.content:
            assert bytes(entry.bytes or ()).decode() == entry.token
            assert [(other.token, other.logprob) for other in entry.top_logprobs] == [
                (entry.token, -0.5),
                ("\u20ac", -1.5),
            ]
        seen: list[str] = []
        stream = await client.chat.completions.create(**LOGPROBS, tools=OPENAI_TOOLS, stream=True)
        async for piece in stream:
            for choice in piece.choices:
                entries = choice.logprobs.content if choice.logprobs else None
                assert bool(entries) == bool(choice.delta.content)
                assert "".join(entry.token for entry in entries or ()) == (choice.delta.content or "")
                seen += [entry.token for entry in entries or ()]
        assert seen == tokens


async def test_logprobs_are_absent_unless_asked_for() -> None:
    async with serving("one two") as live, live.openai() as client:
        answer = await client.chat.completions.create(model="scripted", messages=USER)
        assert answer.choices[0].logprobs is None
        answer = await client.chat.completions.create(model="scripted", messages=USER, logprobs=True, stop=" two")
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.content is not None
        assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content == "one"
        assert {len(entry.top_logprobs) for entry in logprobs.content} == {0}


async def test_official_client_meets_the_engine() -> None:
    """The same sampling whole and streamed, with penalties; a ban holds, and log-probabilities are of the text."""
    backend = BuiltinBackend()
    fields: dict[str, Any] = {
        "model": "specguard-embedded",
        "messages": USER,
        "temperature": 0.9,
        "seed": 5,
        "max_completion_tokens": 24,
        "presence_penalty": 0.8,
        "frequency_penalty": 0.3,
        "logprobs": True,
        "top_logprobs": 3,
    }
    async with serving(backend) as live, live.openai() as client:  # type: ignore[arg-type]
        whole = (await client.chat.completions.create(**fields)).choices[0]
        assert whole.logprobs is not None and whole.logprobs.content
        said = b"".join(bytes(entry.bytes or ()) for entry in whole.logprobs.content)
        assert whole.message.content
        assert said.decode("utf-8", "replace").strip() == whole.message.content.strip()
        for entry in whole.logprobs.content:
            best = [other.logprob for other in entry.top_logprobs]
            assert len(best) == 3
            assert best == sorted(best, reverse=True)
            assert entry.logprob <= best[0] <= 0
            same = [other.logprob for other in entry.top_logprobs if other.bytes == entry.bytes]
            assert same in ([], [entry.logprob])
        text, entries = "", []
        async for piece in await client.chat.completions.create(**fields, stream=True):
            for choice in piece.choices:
                text += choice.delta.content or ""
                entries += (choice.logprobs.content or []) if choice.logprobs else []
        assert (text, entries) == (whole.message.content, whole.logprobs.content)
        first = whole.logprobs.content[0].token
        names = [backend.engine.tokenizer.token_id(name) for name in (first, "<tool_call>")]
        other = (await client.chat.completions.create(**fields, logit_bias={str(id): -100 for id in names})).choices[0]
        assert other.logprobs is not None and other.logprobs.content
        assert first not in [entry.token for entry in other.logprobs.content]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**fields, logit_bias={str(backend.engine.valid_tokens): 1})
        assert caught.value.param == "logit_bias"


async def test_a_backend_that_cannot_tell_logprobs_refuses_them() -> None:
    backend = ScriptedBackend("one")
    backend.capabilities = replace(backend.capabilities, logprobs=False)
    async with serving(backend) as live, live.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**LOGPROBS)
        assert caught.value.param == "logprobs"


async def test_official_client_penalties() -> None:
    async with serving("one") as live, live.openai() as client:
        await client.chat.completions.create(
            model="scripted",
            messages=USER,
            presence_penalty=0.5,
            frequency_penalty=-0.25,
            logit_bias={"50": -100},
            extra_body={"repetition_penalty": 1.1, "min_p": 0.1, "top_k": 20},
        )
        sampling = live.backend.requests[0].sampling
        assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.logit_bias) == (
            0.5,
            -0.25,
            ((50, -100.0),),
        )
        assert (sampling.repetition_penalty, sampling.min_p, sampling.top_k) == (1.1, 0.1, 20)
        for field, value in {"presence_penalty": 3, "logit_bias": {"x": 1}, "top_logprobs": 2}.items():
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="scripted", messages=USER, extra_body={field: value})
            assert caught.value.param == field


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
