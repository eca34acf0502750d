"""Server-sent events: bytes of one frame, and frames of bytes.

Must not: know what is in a frame, decode before a line is complete, or split lines where only `str.splitlines` does.
Invariant: one JSON document per frame on a single `data:` line, also for clients that take the further line breaks of
Unicode for line breaks. What is read does not depend on how the bytes were cut.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

SEPARATORS = {text.encode(): f"\\u{ord(text):04x}".encode() for text in ("\x85", "\u2028", "\u2029")}
DONE = b"data: [DONE]\n\n"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_MARK = "\ufeff"


def frame(data: Any, event: str | None = None) -> bytes:
    """`event: NAME` (if given) and `data: JSON`.

    orjson escapes control characters; what it leaves as it is splits lines in Python's `str.splitlines`.
    """
    head = f"event: {event}\n".encode() if event else b""
    text = orjson.dumps(data)
    if not text.isascii():
        for raw, escaped in SEPARATORS.items():
            text = text.replace(raw, escaped)
    return b"%bdata: %b\n\n" % (head, text)


class ServerEvent(NamedTuple):
    """name: `message` where the stream gives none, as the standard has it."""

    name: str
    data: str


class EventReader:
    """Reads what any server sends, by the WHATWG standard. `feed` returns the events that became complete; one that the
    stream ends in is none. pending: bytes of the one that is not complete; garbled: some of what came was no UTF-8."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._name = ""
        self._data: list[str] = []
        self._after_cr = False
        self._first = True
        self.pending = 0
        self.garbled = False

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        if self._after_cr and chunk:  # a line ended at the CR; this may be the second half of its CRLF
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return []
        if not self.pending and (whole := self._whole(chunk)) is not None:
            return whole
        self._after_cr = chunk.endswith(b"\r")
        begun, *rest = _LINE_END.split(chunk)
        self._line.append(begun)
        self.pending += len(begun)
        events: list[ServerEvent] = []
        for piece in rest:
            self._end_line(self._text(b"".join(self._line)), events)
            self._line = [piece]
            self.pending += len(piece)
        return events

    def _whole(self, chunk: bytes) -> list[ServerEvent] | None:
        """Events of a chunk that is nothing but whole ones of a single `data:` line, as servers send nearly always: a
        third of the work. None = it is something else."""
        if not (chunk.startswith(b"data: ") and chunk.endswith(b"\n\n")) or b"\r" in chunk:
            return None
        events: list[ServerEvent] = []
        for part in chunk[:-2].split(b"\n\n"):
            if not part.startswith(b"data: ") or b"\n" in part:
                return None
            events.append(ServerEvent("message", self._text(part[6:])))
        self._first = False
        return events

    def _text(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.garbled = True
            return line.decode("utf-8", "replace")

    def _end_line(self, line: str, events: list[ServerEvent]) -> None:
        if self._first:
            line, self._first = line.removeprefix(_MARK), False
        if not line:
            if self._data:
                events.append(ServerEvent(self._name or "message", "\n".join(self._data)))
            self._name, self._data, self.pending = "", [], 0
            return
        field, _, value = line.partition(":")  # a comment has an empty field; `id` and `retry` are for reconnecting
        if field == "data":
            self._data.append(value.removeprefix(" "))
        elif field == "event":
            self._name = value.removeprefix(" ")
