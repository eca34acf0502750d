"""The event reader: same payloads however the bytes are cut, and nothing but the standard's line ends."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.agent.sse import SSEReader

STREAM = (
    ": keep-alive\n\n"
    'data: {"text": "größer \u2028 日本"}\n\n'
    "event: ping\ndata: {}\n\n"
    "data: first\r\ndata: second\r\n\r\n"
    "data:no space\r\r"
    "id: 7\n\n"
    "data: [DONE]\n\n"
    "data: never closed\n"
).encode()
PAYLOADS = ['{"text": "größer \u2028 日本"}', "{}", "first\nsecond", "no space", "[DONE]"]


def read(*chunks: bytes) -> list[str]:
    reader = SSEReader()
    return [payload for chunk in chunks for payload in reader.feed(chunk)]


def test_one_piece() -> None:
    assert read(STREAM) == PAYLOADS


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_cut_at_every_byte(cut: int) -> None:
    assert read(STREAM[:cut], STREAM[cut:]) == PAYLOADS


def test_byte_by_byte() -> None:
    assert read(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == PAYLOADS


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_cut_anywhere(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in pairwise(edges))) == PAYLOADS


@given(st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1))
def test_any_text_comes_back(text: str) -> None:
    assert read(f"data: {text}\n\n".encode()) == [text]
