"""Tool-call markup that leaked into the text: the model wrote a call without the tag that opens one.

Must not: mistake talk about markup for a call: only the name of a declared tool at the start of a line, followed by
a parameter (or the end of the function) at the start of the next, outside of code fences, counts.
Invariant: the verdict does not depend on how the text was cut; memory is two lines.
"""

from __future__ import annotations

import re

from detectors.channels import Piece
from detectors.finding import Finding
from detectors.tool_schema import ToolSchemas, Violation

_FUNCTION = re.compile(r"<function=([^<>\n]+)>[^\S\n]*\Z")
_NEXT = re.compile(r"<parameter=[^<>\n]+>|</function>")
_LONGEST = 512


class LeakedMarkup:
    """Fed with the pieces of the text channel; other channels interrupt a line."""

    def __init__(self, schemas: ToolSchemas) -> None:
        self._schemas = schemas
        self._line, self._began = "", 0
        self._name, self._name_began = "", 0
        self._fenced = False

    def reset(self) -> None:
        """Another channel came between."""
        self._line = self._name = ""

    def feed(self, piece: Piece) -> Finding | None:
        """Takes the next piece; the finding accuses the text from the function's tag on."""
        finding = None
        for part in re.split(r"(?<=\n)", piece.text):
            if not self._line:
                self._began = piece.position
            if len(self._line) <= _LONGEST:
                self._line += part
            found = self._look()
            if found and finding is None:
                evidence = {"tool": self._name[:128]}
                finding = Violation("tool.leak", "call outside of its tags", evidence).finding(
                    "text", piece.position, self._name_began
                )
                self._name = ""
            if part.endswith("\n"):
                self._end_line()
        return finding

    def _look(self) -> bool:
        return bool(self._name) and not self._fenced and _NEXT.match(self._line) is not None

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        if line.lstrip().startswith("```"):
            self._fenced = not self._fenced
        function = _FUNCTION.match(line.rstrip("\n"))
        known = function is not None and self._schemas.parameters(function[1].strip()) is not None
        self._name = function[1].strip() if function is not None and known else ""
        self._name_began = self._began
