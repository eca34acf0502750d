"""Server-sent events as bytes.

Must not: know what the events mean.
Invariant: one JSON value per `data:` line, without a raw line break inside (JSON escapes them), and every frame
is whole, so that a write never ends inside a character.

Source: HTML Living Standard, 9.2 Server-sent events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # otherwise nginx collects the stream
}
DONE = b"data: [DONE]\n\n"


def data(value: Any) -> bytes:
    """A frame without a name, as the OpenAI chat API sends them."""
    return b"data: " + dump(value) + b"\n\n"


def event(name: str, value: Any) -> bytes:
    """A named frame; the Anthropic SDKs skip frames without a name."""
    return b"event: " + name.encode() + b"\n" + data(value)


def dump(value: Any) -> bytes:
    """Compact JSON. A lone surrogate, which UTF-8 cannot carry, becomes U+FFFD instead of an exception."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return orjson.dumps(without_surrogates(value))


def without_surrogates(value: Any) -> Any:
    """The same JSON value with every lone surrogate replaced by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_surrogates(each) for each in value]
    return value
