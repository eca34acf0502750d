"""Server-sent events as frames, read more strictly than any client does: what the checkers of all APIs start from.

Must not: forgive anything that the encoders do not need.
Invariant: one optional `event:` line, one `data:` line, one empty line; each data a JSON document or `[DONE]`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Frame:
    """name: of the event, "" without one. data: the JSON document, or DONE."""

    name: str
    data: Any

    @property
    def kind(self) -> str:
        """What it says of itself, "" if nothing."""
        return str(self.data.get("type", "")) if isinstance(self.data, dict) else ""


def read_frames(stream: bytes) -> list[Frame]:
    """All frames of a stream that was cut between two frames. Raises AssertionError."""
    assert stream == b"" or stream.endswith(b"\n\n"), f"a frame is not closed: {stream[-80:]!r}"
    return [_frame(raw) for raw in stream.decode().split("\n\n")[:-1]]


def _frame(raw: str) -> Frame:
    lines = raw.split("\n")
    assert len(raw.splitlines()) == len(lines), f"a line break that only some clients see: {raw[:200]!r}"
    name = lines.pop(0).removeprefix("event: ") if lines[0].startswith("event: ") else ""
    assert len(lines) == 1, f"not one data line: {raw[:200]!r}"
    assert lines[0].startswith("data: "), f"no data line: {raw[:200]!r}"
    text = lines[0].removeprefix("data: ")
    return Frame(name, DONE if text == DONE else json.loads(text))


def arguments(text: str) -> dict[str, Any]:
    """What the pieces of a call's arguments joined to. Raises AssertionError."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise AssertionError(f"the arguments are no JSON: {text[:200]!r}") from error
    assert isinstance(value, dict), f"the arguments are no object: {text[:200]!r}"
    return value
