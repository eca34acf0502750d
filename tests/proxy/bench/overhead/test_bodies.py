"""The bodies are as large as they say, valid for our own parser, and no loop of calls."""

from __future__ import annotations

import pytest

from detectors.call_history import find_loop
from detectors.settings import DEFAULT
from proxy.bench.overhead.bodies import SIZES, body_of
from proxy.wire.openai_chat_parse import parse


@pytest.mark.parametrize("size", SIZES.values())
def test_a_body_is_what_it_says(size: int) -> None:
    raw = body_of(size)
    assert abs(len(raw) - size) <= 0.02 * size
    parsed = parse(raw)
    assert (parsed.ignored, parsed.request.stream) == ((), True)
    assert parsed.request.tools
    assert find_loop(parsed.request.messages, DEFAULT.history) is None


def test_the_long_one_is_an_agents_history() -> None:
    request = parse(body_of(SIZES["400 kB"])).request
    assert sum(len(message.calls) for message in request.messages) == 40
    assert len({message.text for message in request.messages if message.role == "tool"}) == 40
