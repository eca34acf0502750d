"""Server-sent events: bytes of one frame.

Must not: know what is in a frame. Invariant: one JSON document per frame on a single `data:` line, also for clients
that take the further line breaks of Unicode for line breaks.
"""

from __future__ import annotations

from typing import Any

import orjson

SEPARATORS = {text.encode(): f"\\u{ord(text):04x}".encode() for text in ("\x85", "\u2028", "\u2029")}
DONE = b"data: [DONE]\n\n"


def frame(data: Any, event: str | None = None) -> bytes:
    """`event: NAME` (if given) and `data: JSON`.

    orjson escapes control characters; what it leaves as it is splits lines in Python's `str.splitlines`.
    """
    head = f"event: {event}\n".encode() if event else b""
    text = orjson.dumps(data)
    for raw, escaped in SEPARATORS.items():
        text = text.replace(raw, escaped)
    return b"%bdata: %b\n\n" % (head, text)
