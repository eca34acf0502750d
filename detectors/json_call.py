"""Follows a call whose arguments stream as JSON, and gives the verdict on it when it is complete.

Must not: know where the pieces come from, or repair anything.
Invariant: a call that is judged without a violation has a declared name and arguments that are valid as a whole.

Beside the schema it refuses keys that no schema names and that look like torn markup (`{"command=ls": ""}`): parsers of
XML calls make them when tokens are lost, and a schema that allows further properties lets them pass.
"""

from __future__ import annotations

import re
from typing import Any

from detectors.elements import ElementRun, ElementRuns, ElementSettings
from detectors.json_stream.trip import Rules
from detectors.placed_channels import NamedCall
from detectors.tool_schema import ToolSchemas, Violation
from detectors.tool_stream import ToolStream

RULES = Rules(size=None)
"""The size of a call is limited where it is held."""
_TORN = re.compile(r"[=<>\n]")


class JsonCall:
    """One call. `violation`: what is wrong already, it stays; began: the token that the call began in."""

    is_in_free_text = False
    """Every piece is looked at by itself."""

    def __init__(self, opened: NamedCall, schemas: ToolSchemas, elements: ElementSettings) -> None:
        self.name, self.began = opened.name, opened.position
        self.repeated: ElementRun | None = None  # what the last feed found
        self.violation: Violation | None = None
        self._schemas = schemas
        self._stream = ToolStream(schemas, RULES)
        self._elements = ElementRuns(elements)
        self._bytes = 0
        if opened.misplaced:
            self.violation = Violation("tool.markup", opened.misplaced, {"index": opened.index})
        else:
            self.violation = self._stream.begin(0, opened.name)

    def feed(self, text: str, position: int) -> Violation | None:
        """More of the arguments."""
        self.repeated = None
        if self.violation is None and text:
            data = text.encode("utf-8", "surrogatepass")
            self._bytes += len(data)
            self.violation = self._stream.arguments(0, data)
            if self.violation is None:
                self.repeated = self._elements.feed(data, position)
        return self.violation

    def end(self) -> tuple[Any, Violation | None]:
        """The call is complete: its arguments, and why it must not be sent."""
        if self.violation is not None:
            return None, self.violation
        value: Any = {}
        if self._bytes:
            value, self.violation = self._stream.end(0)
        if self.violation is None:
            self.violation = self._torn(value) or self._schemas.check(self.name, value)
        return value, self.violation

    def _torn(self, arguments: Any) -> Violation | None:
        declared = (self._schemas.parameters(self.name) or {}).get("properties")
        known = declared if isinstance(declared, dict) else {}
        for key in arguments if isinstance(arguments, dict) else ():
            if key not in known and _TORN.search(key):
                return Violation("tool.markup", "torn_key", {"tool": self.name, "parameter": key[:128]})
        return None
