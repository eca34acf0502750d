"""Reads server-sent events: bytes in, `data` payloads out.

Must not: decode before a line is complete (a chunk may end inside a character) or split lines anywhere but at
LF, CR and CRLF (`str.splitlines` also splits at U+2028, which may stand inside JSON).
Invariant: the payloads do not depend on how the bytes were cut into chunks.
"""

from __future__ import annotations


class SSEReader:
    """`feed` returns the payloads that became complete, that is, were closed by a blank line."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[str] = []
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[str]:
        payloads = []
        for byte in chunk:
            if byte == 0x0A and self._after_cr:  # second half of CRLF: the line ended at the CR
                self._after_cr = False
                continue
            self._after_cr = byte == 0x0D
            if byte not in (0x0A, 0x0D):
                self._line.append(byte)
            elif self._line:
                self._end_line()
            elif self._data:
                payloads.append("\n".join(self._data))
                self._data.clear()
        return payloads

    def _end_line(self) -> None:
        name, _, value = self._line.decode("utf-8", "replace").partition(":")
        if name == "data":  # `event`, `id`, `retry` and comments (an empty name) carry nothing for this agent
            self._data.append(value.removeprefix(" "))
        self._line.clear()
