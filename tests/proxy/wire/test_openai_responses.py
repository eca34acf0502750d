"""Responses on the wire: event order, whole bodies, and the official client against a live server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import openai
import pytest

from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.events import Event, Failed, Finished, Logprob, Started, TextDelta, ThinkingDelta, Timings, ToolCall, Usage
from proxy.wire.openai_responses import OpenAIResponsesEncoder
from proxy.wire.openai_responses_parse import ParsedResponse
from proxy.wire.responses_input import unseal
from proxy.wire.responses_tools import Origin, ToolNames
from tests.proxy.live import RESPONSES, RESPONSES_TOOLS, body_for, payloads, serving
from tests.proxy.scripted import Script, ScriptedBackend, call_text
from tests.proxy.wire.responses_order import check_order

REQUEST = ChatRequest("openai.responses", "m", (Message("user", "go"),), request_id="req_1")
NAMES = ToolNames({"ls": Origin("ls"), "fs__read": Origin("read", "fs"), "patch": Origin("patch", custom=True)})
PARSED = ParsedResponse(REQUEST, (), names=NAMES, history=REQUEST.messages)
END = Finished(
    "tool_calls", Usage(9, 4, 20, 3, 5), Timings(9, 2.0, 20, 40.0, 30, 12), "plain", None, ("inc_1",), (7, 8)
)
CALL = ToolCall(0, "ls", '{"path":"src"}')
EVENTS: list[Event] = [
    Started(9, 4),
    ThinkingDelta("h"),
    ThinkingDelta("m"),
    TextDelta("I "),
    TextDelta("look."),
    CALL,
    END,
]
LS, BAD = call_text("ls", path="src"), call_text("ls", pth="secret")
TEXT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


def encoded(events: Sequence[Event], parsed: ParsedResponse = PARSED, transcript: bool = False) -> list[Any]:
    """The events of a stream, whose order is checked."""
    encoder = OpenAIResponsesEncoder(parsed.request, "m", transcript, parsed)
    frames = payloads(b"".join(map(encoder.encode, events)))
    check_order(frames)
    return frames


def body(*events: Event, parsed: ParsedResponse = PARSED, transcript: bool = False) -> dict[str, Any]:
    encoder = OpenAIResponsesEncoder(parsed.request, "m", transcript, parsed)
    for event in events:
        encoder.collect(event)
    return encoder.body()


def kinds(frames: Sequence[Any]) -> list[str]:
    return [frame["type"] for frame in frames]


def test_the_order_of_events() -> None:
    assert kinds(encoded(EVENTS)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.output_item.done",
        *TEXT[:3],
        *TEXT[2:],
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_every_frame_names_its_event() -> None:
    encoder = OpenAIResponsesEncoder(REQUEST, "m", False, PARSED)
    lines = b"".join(map(encoder.encode, EVENTS)).decode().split("\n")
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert names == [json.loads(line[6:])["type"] for line in lines if line.startswith("data: ")]


def test_the_end_holds_the_whole_response() -> None:
    end = encoded(EVENTS)[-1]["response"]
    assert (end["status"], end["object"], end["model"], end["error"]) == ("completed", "response", "m", None)
    reasoning, message, call = end["output"]
    assert (reasoning["content"], reasoning["summary"]) == ([{"type": "reasoning_text", "text": "hm"}], [])
    assert "encrypted_content" not in reasoning
    assert (message["role"], message["status"], message["content"][0]["text"]) == ("assistant", "completed", "I look.")
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "ls", '{"path":"src"}')
    assert end["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 29,
    }
    assert (end["timings"]["draft_n"], end["timings"]["draft_n_accepted"]) == (30, 12)


def test_a_body_equals_the_end_of_the_stream() -> None:
    def stable(response: dict[str, Any]) -> Any:
        items = [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in response["output"]]
        return {**response, "id": "", "created_at": 0, "output": items}

    assert stable(body(*EVENTS)) == stable(encoded(EVENTS)[-1]["response"])


def test_a_tool_of_a_namespace_gets_its_names_back() -> None:
    (item,) = body(ToolCall(0, "fs__read", "{}"), END)["output"]
    assert (item["name"], item["namespace"]) == ("read", "fs")


def test_a_custom_call_is_text() -> None:
    frames = encoded([Started(1, 0), ToolCall(0, "patch", '{"input":"*** Begin\\n\\"x\\""}'), END])
    assert kinds(frames)[2:6] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    assert frames[3]["delta"] == frames[4]["input"] == frames[5]["item"]["input"] == '*** Begin\n"x"'
    assert frames[5]["item"]["type"] == "custom_tool_call"


def test_a_custom_call_that_was_only_observed_is_shown_as_written() -> None:
    (item,) = body(ToolCall(0, "patch", '{"inpt":"x"}'), END)["output"]
    assert item["input"] == '{"inpt":"x"}'


def test_a_response_at_its_limit_is_incomplete() -> None:
    last = encoded([Started(1, 0), TextDelta("a"), replace(END, reason="length")])[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert body(TextDelta("a"), replace(END, reason="length"))["status"] == "incomplete"


def test_a_failure_is_the_last_event() -> None:
    last = encoded([Started(1, 0), TextDelta("a"), Failed("internal", "it broke")])[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "it broke"}
    assert last["response"]["status"] == "failed"
    with pytest.raises(RequestError, match="it broke"):
        body(Failed("internal", "it broke"))
    with pytest.raises(RequestError, match="without a result"):
        body(TextDelta("a"))


def test_keep_alives_are_events_and_open_the_response() -> None:
    encoder = OpenAIResponsesEncoder(REQUEST, "m", False, PARSED)
    frames = encoder.keep_alive() + encoder.keep_alive() + b"".join(map(encoder.encode, EVENTS))
    told = payloads(frames)
    assert kinds(told)[:4] == ["response.created", "response.in_progress", "keepalive", "response.output_item.added"]
    check_order(told)


def test_reasoning_that_the_client_can_send_back() -> None:
    (item, *_) = body(*EVENTS, parsed=replace(PARSED, sealed=True))["output"]
    assert unseal(item["encrypted_content"]) == "hm"


def test_logprobs() -> None:
    entry = Logprob(b"\xe2\x82", -0.5, ((b"a", -2.0),))
    frames = encoded([Started(1, 0), TextDelta("\u20ac", (entry,)), END])
    short = {"token": "\ufffd", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -2.0}]}
    assert frames[4]["logprobs"] == frames[5]["logprobs"] == [short]
    part = frames[-1]["response"]["output"][0]["content"][0]
    assert part["logprobs"][0]["bytes"] == [226, 130]


def test_the_transcript_extension() -> None:
    extension = {"token_ids": [7, 8], "mode": "plain", "incidents": ["inc_1"], "discarded_tokens": 5}
    assert encoded(EVENTS, transcript=True)[-1]["response"]["specguard"] == extension
    assert "specguard" not in body(*EVENTS)


@pytest.mark.parametrize("store", [True, False])
def test_what_is_kept_for_a_later_request(store: bool) -> None:
    kept: dict[str, Sequence[Message]] = {}
    parsed = replace(PARSED, store=store)
    encoder = OpenAIResponsesEncoder(REQUEST, "m", False, parsed, kept.__setitem__)
    for event in EVENTS:
        encoder.encode(event)
    if not store:
        assert kept == {}
        return
    (messages,) = kept.values()
    assert [message.role for message in messages] == ["user", "assistant"]
    assert (messages[1].thinking, messages[1].text) == ("hm", "I look.")
    assert [(call.name, call.arguments) for call in messages[1].calls] == [("ls", {"path": "src"})]


async def test_official_client_round_trip() -> None:
    async with serving(f"<think>\nhm\n</think>\n\nI look.\n{LS}\n{LS}") as live, live.openai() as client:
        answer = await client.responses.create(model="scripted", input="go", tools=RESPONSES_TOOLS, instructions="be")
        assert (answer.output_text, answer.status, answer.instructions) == ("I look.", "completed", "be")
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [(call.name, call.arguments) for call in calls] == [("ls", '{"path":"src"}')] * 2
        assert len({call.call_id for call in calls}) == 2
        results: list[Any] = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "x.py"} for call in calls
        ]
        # a turn later it sends all of it back, or only what is new: the model is asked the same
        whole: list[Any] = [{"role": "user", "content": "go"}, *(item.model_dump() for item in answer.output), *results]
        await client.responses.create(model="scripted", input=whole, tools=RESPONSES_TOOLS, instructions="be")
        await client.responses.create(
            model="scripted",
            input=results,
            tools=RESPONSES_TOOLS,
            instructions="be",
            previous_response_id=answer.id,
        )
        _, resent, taken_up = live.backend.requests
        assert resent.messages == taken_up.messages
        assert [m.role for m in resent.messages] == ["system", "user", "assistant", "tool", "tool"]
        assert (resent.messages[2].thinking, len(resent.messages[2].calls)) == ("hm", 2)


async def test_official_client_stream() -> None:
    async with serving(f"<think>\nhm\n</think>\n\nI look.\n{LS}") as live, live.openai() as client:
        async with client.responses.stream(model="scripted", input="go", tools=RESPONSES_TOOLS) as events:
            told = [event.type async for event in events]
            final = await events.get_final_response()
        assert final.output_text == "I look."
        assert final.usage is not None
        assert final.usage.output_tokens_details.reasoning_tokens == 4
        assert told.count("response.function_call_arguments.done") == 1
        assert told[-1] == "response.completed"


async def test_a_bad_call_heals_inside_the_stream() -> None:
    script = Script(f"I look.\n{LS}", fast=f"I look.\n{BAD}")
    async with serving(ScriptedBackend(script)) as live:
        answer = await live.post(RESPONSES, stream=True, tools=RESPONSES_TOOLS)
        frames = payloads(answer.body)
        check_order(frames)
        assert b"secret" not in answer.body
        assert frames[-1]["response"]["output"][-1]["arguments"] == '{"path":"src"}'
        (incident,) = await live.incidents()
        assert incident.opened["api"] == "openai.responses"


async def test_official_client_errors() -> None:
    async with serving("so") as live, live.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="scripted", input="go", previous_response_id="resp_none")
        assert caught.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="other", input="go")


async def test_nobody_takes_up_what_came_with_another_key() -> None:
    async with serving("so", server={"keys": ("alice", "bob")}) as live:
        answer = await live.ask("POST", RESPONSES, body_for(RESPONSES, input="a secret"), x_api_key="alice")
        again = body_for(RESPONSES, input="repeat", previous_response_id=answer.json["id"])
        assert (await live.ask("POST", RESPONSES, again, x_api_key="alice")).status == 200
        refusal = await live.ask("POST", RESPONSES, again, x_api_key="bob")
        assert (refusal.status, refusal.json["error"]["code"]) == (400, "previous_response_not_found")
        assert [len(request.messages) for request in live.backend.requests] == [1, 3]
