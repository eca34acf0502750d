"""The scripted lane: chunks that a lane's reader takes, words without a loop, and one call that is valid."""

from __future__ import annotations

import json

import pytest

from proxy.bench.overhead.lane_source import CALLS, COUNT, call_frames, text_frames, words
from proxy.lanes.chunks import Chunk
from proxy.lanes.reading import DONE, read_chunk
from proxy.sse import EventReader


def chunks(frames: list[bytes]) -> list[Chunk]:
    reader = EventReader()
    return [read_chunk(event.data) for frame in frames for event in reader.feed(frame) if event.data != DONE]


@pytest.mark.parametrize("width", [1, 4])
def test_all_words_with_an_id_each(width: int) -> None:
    found = chunks(text_frames("fast", width))
    assert "".join(chunk.text for chunk in found) == "".join(words())
    ids = [number for chunk in found if chunk.finish is None for number in chunk.token_ids or ()]
    assert len(ids) == len(set(ids)) == COUNT
    assert found[-2].finish == "stop"
    assert found[-1].counts is not None


def test_the_words_have_no_pattern() -> None:
    assert len(set(words())) > COUNT // 2


@pytest.mark.parametrize("model", sorted(CALLS))
def test_one_call_is_valid_and_one_is_not(model: str) -> None:
    arguments = "".join(call.arguments for chunk in chunks(call_frames(model)) for call in chunk.calls)
    assert ("path" in json.loads(arguments)) == (model == "plain")
