"""Frames are what the server-sent events standard says, written and read, however the bytes are cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.agent.sse import SSEReader
from proxy.conversation import ChatRequest, Message
from proxy.events import Event, Finished, Started, TextDelta, Timings, Usage
from proxy.sse import DONE, EventReader, ServerEvent, frame
from proxy.wire.anthropic_messages import AnthropicEncoder
from proxy.wire.openai_chat import OpenAIChatEncoder
from proxy.wire.openai_responses import OpenAIResponsesEncoder
from proxy.wire.openai_responses_parse import ParsedResponse

NASTY = 'a\r\n\n\u2028\u2029\x85\x0b\x1c\x00é👋\u200d\ufeff"\\data: [DONE]\n\nevent: x'
STREAM = (
    "\ufeffdata: first\n\n"
    ": a comment\r\n\r\n"
    'event: delta\r\ndata: {"a":\r\ndata: "é\u2028👋"}\r\n\r\n'
    "event:no blank\rdata:x\rdata: y \r\r"
    "event: nothing said\n\n"
    "id: 7\nretry: 9\ndata\n\n"
    "data:  two blanks\n\n\n\n"
    "data: after\x85a\x0bb\n\n"
    "data: [DONE]\n\n"
    "data: never closed"
).encode()
EVENTS = [
    ServerEvent("message", "first"),
    ServerEvent("delta", '{"a":\n"é\u2028👋"}'),
    ServerEvent("no blank", "x\ny "),
    ServerEvent("message", ""),
    ServerEvent("message", " two blanks"),
    ServerEvent("message", "after\x85a\x0bb"),
    ServerEvent("message", "[DONE]"),
]


def test_a_frame_with_and_without_a_name() -> None:
    assert frame({"a": 1}) == b'data: {"a":1}\n\n'
    assert frame({"a": 1}, "ping") == b'event: ping\ndata: {"a":1}\n\n'
    assert DONE == b"data: [DONE]\n\n"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_tears_a_frame_apart(text: str) -> None:
    for body in (text, "before \u2028 \u2029 \x85 \x0b \x1c \r\n after" + text):
        made = frame({"text": body}, "delta").decode()
        head, data, *rest = made.splitlines()  # splits at more characters than the standard
        assert (head, rest) == ("event: delta", [""])
        assert orjson.loads(data.removeprefix("data: ")) == {"text": body}


def read(*chunks: bytes) -> list[ServerEvent]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def test_every_cut_reads_the_same() -> None:
    """In two, in three around each place, byte by byte, with empty chunks between."""
    assert read(STREAM) == EVENTS
    for cut in range(len(STREAM) + 1):
        assert read(STREAM[:cut], STREAM[cut:]) == EVENTS
        assert read(STREAM[:cut], b"", STREAM[cut : cut + 1], STREAM[cut + 1 :]) == EVENTS
    assert read(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == EVENTS


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_all_line_ends_of_the_standard(end: bytes) -> None:
    """Whole frames of ours, as a server or a gateway with other line ends would send them."""
    sent = b"".join(frame({"text": NASTY, "n": n}, "delta") for n in range(3)).replace(b"\n", end)
    for cut in range(len(sent) + 1):
        events = read(sent[:cut], sent[cut:])
        assert [event.name for event in events] == ["delta"] * 3
        assert [orjson.loads(event.data) for event in events] == [{"text": NASTY, "n": n} for n in range(3)]


def test_a_large_frame_in_small_pieces_takes_linear_time() -> None:
    """A megabyte on one line, in pieces of 16 bytes: 65536 pieces, each looked at once."""
    sent = frame({"text": "x" * (1 << 20)})
    reader = EventReader()
    assert sum(len(reader.feed(sent[at : at + 16])) for at in range(0, len(sent), 16)) == 1
    assert len(reader._line) == 1


@given(st.lists(st.tuples(st.sampled_from([b"data: ", b"event: ", b":", b"", b"data"]), st.binary(max_size=6))))
def test_any_bytes_in_any_pieces(lines: list[tuple[bytes, bytes]]) -> None:
    sent = b"\n".join(head + tail for head, tail in lines) + b"\n\n"
    assert read(*(sent[at : at + 1] for at in range(len(sent)))) == read(sent)


def test_the_example_agents_reader_under_every_cut() -> None:
    sent = STREAM.removeprefix("\ufeff".encode())  # which it does not know of
    for cut in range(len(sent) + 1):
        reader = SSEReader()
        assert [*reader.feed(sent[:cut]), *reader.feed(sent[cut:])] == [event.data for event in EVENTS]


REQUEST = ChatRequest("t", "m", (Message("user", "go"),), request_id="req_1")
END = Finished("stop", Usage(1), Timings(), "plain")


def _text_of(document: Any) -> str:
    if document.get("type") == "response.output_text.delta":
        return str(document["delta"])
    if document.get("type") == "content_block_delta":
        return str(document["delta"]["text"])
    return "".join(choice["delta"].get("content", "") for choice in document.get("choices", ()))


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_a_text_that_comes_in_any_two_deltas_arrives_whole(api: str) -> None:
    """Through each encoder, and cut again on the way, for one of them at every byte of the first delta's frame."""
    for cut in range(len(NASTY) + 1):
        encoder: Any = {
            "chat": lambda: OpenAIChatEncoder(REQUEST, "m"),
            "responses": lambda: OpenAIResponsesEncoder(REQUEST, "m", False, ParsedResponse(REQUEST, ())),
            "messages": lambda: AnthropicEncoder(REQUEST, "m"),
        }[api]()
        deltas: list[Event] = [TextDelta(text) for text in (NASTY[:cut], NASTY[cut:]) if text]
        frames = [encoder.encode(event) for event in (Started(1, 0), *deltas, END)]
        sent, where = b"".join(frames), len(frames[0])
        for at in range(where, where + len(frames[1]) + 1, 1 if cut == len(NASTY) // 2 else 7):
            documents = [orjson.loads(e.data) for e in read(sent[:at], sent[at:]) if e.data != "[DONE]"]
            assert "".join(map(_text_of, documents)) == NASTY
