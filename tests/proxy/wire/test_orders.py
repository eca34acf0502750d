"""The checkers of streams see every fault that is planted into a good one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.conversation import ChatRequest, Message
from proxy.errors import RequestError
from proxy.events import Event, Finished, Started, TextDelta, ThinkingDelta, Timings, ToolCall, Usage
from proxy.wire.anthropic_messages import AnthropicEncoder
from proxy.wire.openai_chat import OpenAIChatEncoder
from proxy.wire.openai_responses import OpenAIResponsesEncoder
from proxy.wire.openai_responses_parse import ParsedResponse
from tests.proxy.wire import chat_order, messages_order, responses_order
from tests.proxy.wire.frames import DONE, Frame, arguments, read_frames

REQUEST = ChatRequest("openai.chat", "m", (Message("user", "go"),), include_usage=True, request_id="req_1")
END = Finished("tool_calls", Usage(9, 4, 20, 3, 5), Timings(9, 2.0, 20, 40.0, 30, 12), "plain")
CALLS = [ToolCall(index, "ls", '{"path":"src"}') for index in range(2)]
EVENTS: list[Event] = [Started(9, 4), ThinkingDelta("hm"), TextDelta("I "), TextDelta("look."), *CALLS, END]
MAKERS: dict[str, tuple[Callable[[], Any], Callable[[Sequence[Frame]], Any]]] = {
    "chat": (lambda: OpenAIChatEncoder(REQUEST, "m"), chat_order.check),
    "responses": (
        lambda: OpenAIResponsesEncoder(REQUEST, "m", False, ParsedResponse(REQUEST, ())),
        responses_order.check,
    ),
    "messages": (lambda: AnthropicEncoder(REQUEST, "m"), messages_order.check),
}
Fault = Callable[[list[Frame]], list[Frame]]


def good(api: str) -> list[Frame]:
    encoder = MAKERS[api][0]()
    return read_frames(b"".join(map(encoder.encode, EVENTS)))


def failed(api: str) -> list[Frame]:
    encoder = MAKERS[api][0]()
    begun = b"".join(map(encoder.encode, EVENTS[:3]))
    return read_frames(begun + encoder.error(RequestError("internal", "it broke")))


def dropped(text: str) -> Fault:
    """The first frame that holds the text is missing."""

    def plant(frames: list[Frame]) -> list[Frame]:
        at = next(index for index, frame in enumerate(frames) if text in _shown(frame))
        return frames[:at] + frames[at + 1 :]

    return plant


def doubled(text: str) -> Fault:
    def plant(frames: list[Frame]) -> list[Frame]:
        at = next(index for index, frame in enumerate(frames) if text in _shown(frame))
        return [*frames[:at], frames[at], *frames[at:]]

    return plant


def changed(old: str, new: str) -> Fault:
    """In the first frame that holds it."""

    def plant(frames: list[Frame]) -> list[Frame]:
        at = next(index for index, frame in enumerate(frames) if old in _shown(frame))
        frame = Frame(frames[at].name, json.loads(_shown(frames[at]).replace(old, new, 1)))
        return [*frames[:at], frame, *frames[at + 1 :]]

    return plant


def swapped(one: str, other: str) -> Fault:
    def plant(frames: list[Frame]) -> list[Frame]:
        a, b = (next(i for i, frame in enumerate(frames) if text in _shown(frame)) for text in (one, other))
        frames[a], frames[b] = frames[b], frames[a]
        return frames

    return plant


def _shown(frame: Frame) -> str:
    return json.dumps(frame.data)


def unnamed(frames: list[Frame]) -> list[Frame]:
    return [replace(frames[0], name=""), *frames[1:]]


def named(frames: list[Frame]) -> list[Frame]:
    return [replace(frames[0], name="chunk"), *frames[1:]]


def goes_on(frames: list[Frame]) -> list[Frame]:
    return [*frames, frames[1]]


def done_after_error(_: list[Frame]) -> list[Frame]:
    return [*failed("chat"), Frame("", DONE)]


def stop_after_error(_: list[Frame]) -> list[Frame]:
    return [*failed("messages"), Frame("message_stop", {"type": "message_stop"})]


FAULTS: dict[str, list[Fault]] = {
    "chat": [
        named,
        goes_on,
        done_after_error,
        dropped('"role"'),
        doubled('"role"'),
        dropped('"finish_reason": "tool_calls"'),
        doubled('"finish_reason": "tool_calls"'),
        changed('"finish_reason": "tool_calls"', '"finish_reason": "stop"'),
        changed('"finish_reason": "tool_calls"', '"finish_reason": "end_turn"'),
        dropped('"tool_calls": [{"index": 0'),
        doubled('"tool_calls": [{"index": 1'),
        swapped('"index": 0, "id"', '"index": 1, "id"'),
        changed('{\\"path\\":\\"src\\"}', '{\\"path\\":\\"src\\"'),
        changed('{\\"path\\":\\"src\\"}', "[]"),
        doubled('"usage"'),
        changed('"total_tokens": 29', '"total_tokens": 30'),
        changed('"model": "m"', '"model": "n"'),
        changed('"draft_n": 30', '"draft_n": 3'),
        changed('"logprobs": null', '"logprobs": {"content": []}'),
        swapped('"usage"', '"finish_reason": "tool_calls"'),
    ],
    "messages": [
        unnamed,
        goes_on,
        stop_after_error,
        dropped('"message_start"'),
        doubled('"message_start"'),
        dropped('"content_block_start"'),
        doubled('"content_block_start"'),
        dropped('"content_block_stop"'),
        doubled('"content_block_stop"'),
        dropped('"signature_delta"'),
        swapped('"signature_delta"', '"thinking_delta"'),
        changed('"index": 1', '"index": 2'),
        changed('"type": "content_block_stop", "index": 1', '"type": "content_block_stop", "index": 0'),
        changed('"text_delta", "text"', '"thinking_delta", "thinking"'),
        changed('"text": ""', '"text": "x"'),
        changed('{\\"path\\":\\"src\\"}', '{\\"path\\"'),
        dropped('"message_delta"'),
        doubled('"message_delta"'),
        changed('"stop_reason": "tool_use"', '"stop_reason": "end_turn"'),
        changed('"stop_reason": "tool_use"', '"stop_reason": "stop"'),
        changed('"stop_sequence": null}, "usage"', '"stop_sequence": "x"}, "usage"'),
        changed('"cache_read_input_tokens": 4', '"cache_read_input_tokens": 5'),
        doubled('"message_stop"'),
        swapped('"message_stop"', '"message_delta"'),
    ],
    "responses": [
        unnamed,
        goes_on,
        dropped('"response.created"'),
        dropped('"response.in_progress"'),
        dropped('"response.output_text.delta"'),
        doubled('"response.output_text.delta"'),
        changed('"delta": "look."', '"delta": "looks."'),
        changed('"output_index": 1', '"output_index": 0'),
        changed('"status": "completed"', '"status": "done"'),
        changed('"arguments": "{\\"path\\":\\"src\\"}"', '"arguments": "{}"'),
        changed('"status": "in_progress", "error"', '"status": "completed", "error"'),
        changed('"draft_n": 30', '"draft_n": 3'),
        swapped('"response.output_text.done"', '"response.content_part.done"'),
        dropped('"response.content_part.added"'),
        dropped('"response.content_part.done"'),
        dropped('"response.output_text.done"'),
        dropped('"response.output_item.added"'),
        doubled('"response.output_item.added"'),
        dropped('"response.output_item.done"'),
        dropped('"response.reasoning_text.done"'),
        dropped('"response.function_call_arguments.delta"'),
        doubled('"response.function_call_arguments.done"'),
        swapped('"response.function_call_arguments.delta"', '"response.function_call_arguments.done"'),
        doubled('"response.completed"'),
    ],
}


@pytest.mark.parametrize("api", MAKERS)
def test_good_streams_pass_and_so_does_every_beginning_of_them(api: str) -> None:
    frames, check = good(api), MAKERS[api][1]
    for cut in range(len(frames)):
        assert not check(frames[:cut]).complete
    assert check(frames).complete
    broken = check(failed(api))
    assert (broken.ended, broken.complete) == (True, False)


def _counted(frames: list[Frame]) -> list[Frame]:
    """With sequence numbers that count again, so that another rule must see the fault."""
    return [Frame(f.name, f.data | {"sequence_number": at}) for at, f in enumerate(frames)]


@pytest.mark.parametrize(("api", "fault"), [(api, fault) for api, faults in FAULTS.items() for fault in faults])
def test_every_planted_fault_is_seen(api: str, fault: Fault) -> None:
    frames = fault(good(api))
    with pytest.raises((AssertionError, KeyError, AttributeError)):
        MAKERS[api][1](_counted(frames) if api == "responses" else frames)


def test_sequence_numbers_count() -> None:
    for fault in (
        dropped("in_progress"),
        doubled("keepalive"),
        changed('"sequence_number": 5', '"sequence_number": 6'),
    ):
        encoder = MAKERS["responses"][0]()
        frames = read_frames(b"".join([*map(encoder.encode, EVENTS[:3]), encoder.keep_alive()]))
        responses_order.check(frames)
        with pytest.raises(AssertionError, match="count the frames"):
            responses_order.check(fault(frames))


@pytest.mark.parametrize("text", ["", '{"a"', "[]", "1", '{"a":1}{'])
def test_arguments_are_one_object(text: str) -> None:
    with pytest.raises(AssertionError):
        arguments(text)


@pytest.mark.parametrize(
    "stream",
    [
        b'data: {"a":1}\n',
        b'data: {"a":1}\r\n\r\n',
        b'data: {"a":"\xe2\x80\xa8"}\n\n',
        b'data: {"a":\ndata: 1}\n\n',
        b'event: x\n\ndata: {"a":1}\n\n',
        b': comment\n\ndata: {"a":1}\n\n',
    ],
)
def test_frames_are_read_strictly(stream: bytes) -> None:
    with pytest.raises(AssertionError):
        read_frames(stream)
