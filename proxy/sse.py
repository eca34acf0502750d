"""Server-sent events: bytes of one frame.

Must not: know what is in a frame. Invariant: one JSON document per frame on a single `data:` line.
"""

from __future__ import annotations

from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


def frame(data: Any, event: str | None = None) -> bytes:
    """`event: NAME` (if given) and `data: JSON`; orjson escapes line breaks, so a frame cannot be torn apart."""
    head = f"event: {event}\n".encode() if event else b""
    return b"%bdata: %b\n\n" % (head, orjson.dumps(data))
