"""Frames are what the server-sent events standard says: one JSON document on one data line."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from proxy.sse import DONE, frame


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
