"""Tool calls that arrive as numbered pieces (an index, a name, then arguments as JSON): their order, and each call.

Must not: know a wire format, or repair anything.
Invariant: a call that was closed without a violation has a declared name and valid arguments; a violation stays.

The builtin backend speaks `qwen_xml` (see `qwen_stream.py`); this is for backends that send calls in pieces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.trip import Rules
from detectors.tool_schema import ToolSchemas, Violation

_LEAK = re.compile(
    rb"<tool_call>(?:\\n|\s)*<function=|</parameter>(?:\\n|\s)*(?:<parameter=|</function>)|<function=[\w.-]+>(?:\\n|\s)*<param"
)
_TAIL = 256


@dataclass(slots=True)
class _Call:
    name: str
    stream: JsonStream
    closed: bool = False
    tail: bytes = b""


class ToolStream:
    """All calls of one response. refuses_markup: whether markup of another call format in arguments is a violation."""

    def __init__(self, schemas: ToolSchemas, rules: Rules = Rules(), refuses_markup: bool = True) -> None:  # noqa: B008
        self._schemas, self._rules, self._refuses_markup = schemas, rules, refuses_markup
        self._calls: dict[int, _Call] = {}
        self.violation: Violation | None = None

    def begin(self, index: int, name: str) -> Violation | None:
        """Call number `index` begins; calls are numbered 0, 1, 2 in their order."""
        if self.violation is None:
            if index in self._calls:
                self._refuse("duplicate index", index)
            elif index != len(self._calls):
                self._refuse("unseen index", index)
            elif self._schemas.parameters(name) is None:
                self.violation = self._schemas.unknown(name)
            else:
                self._calls[index] = _Call(name, JsonStream(self._schemas.compiled(name), self._rules))
        return self.violation

    def arguments(self, index: int, data: bytes) -> Violation | None:
        """More of a call's arguments."""
        if self.violation is not None or not data:
            return self.violation
        call = self._calls.get(index)
        if call is None or call.closed:
            self._refuse("arguments before a name" if call is None else "arguments after the end", index)
            return self.violation
        trip = call.stream.feed(data)
        if trip is not None:
            self.violation = self._schemas.tripped(call.name, trip)
        elif self._refuses_markup:
            call.tail += data
            if b"<" in call.tail and _LEAK.search(call.tail):
                self.violation = Violation("tool.markup", "leaked_markup", {"tool": call.name})
            call.tail = call.tail[-_TAIL:]
        return self.violation

    def end(self, index: int) -> tuple[Any, Violation | None]:
        """A call is complete: (its arguments, None) if it is valid."""
        call = self._calls.get(index)
        if self.violation is None and (call is None or call.closed):
            self._refuse("end of no call", index)
        if self.violation is not None or call is None:
            return None, self.violation
        call.closed = True
        final = call.stream.finish()
        if final.trip is not None and final.trip.kind == "truncated":
            self.violation = _truncated(call, "stop")
        elif final.trip is not None:
            self.violation = self._schemas.tripped(call.name, final.trip)
        return (None if self.violation is not None else final.value), self.violation

    def finish(self, reason: str) -> Violation | None:
        """The response is over, for a `reason` such as `stop`, `length` or `upstream`. Open calls were cut off."""
        for call in self._calls.values():
            if self.violation is None and not call.closed:
                self.violation = _truncated(call, reason)
        return self.violation

    def _refuse(self, reason: str, index: int) -> None:
        self.violation = Violation("tool.markup", reason, {"index": index})


def _truncated(call: _Call, reason: str) -> Violation:
    return Violation("tool.truncated", f"cut off: {reason}", {"tool": call.name, "bytes": call.stream.fed})
