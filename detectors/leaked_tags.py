"""Tags of calls in the text of an upstream that turns calls into fields of their own: none belongs there.

Must not: mistake talk about a tag for a call: one in quotes or backticks, or in a code fence, is talk, and so is every
one where no tool was declared.
Invariant: the verdict does not depend on how the text was cut; memory is two lines.
"""

from __future__ import annotations

from detectors.channels import CALL_OPEN, Piece
from detectors.finding import Finding
from detectors.leaked_markup import _LONGEST, LeakedMarkup
from detectors.tool_schema import ToolSchemas, Violation

_QUOTES = frozenset("`'\"\u2018\u2019\u201c\u201d*")


class LeakedTags(LeakedMarkup):
    """What `LeakedMarkup` finds, and the bare tag."""

    def __init__(self, schemas: ToolSchemas) -> None:
        super().__init__(schemas)
        self._any_tool = schemas.any_tool
        self._before = ""  # the character before the tag
        self._tag, self._tag_began = "", 0  # a beginning of it

    def reset(self) -> None:
        super().reset()
        self._before = self._tag = ""

    @property
    def is_settled(self) -> bool:
        """No tag and no call may have begun: without a `<` nothing can be found."""
        return not self._tag and not self._name

    def lengthen(self, position: int, text: str) -> bool:
        """Takes such text, as `feed` would; whether it still holds."""
        self._before = text[-1]
        if "\n" in text:
            super().feed(Piece("text", text, position))
            return not self._name
        if not self._line:
            self._began = position
        if len(self._line) <= _LONGEST:
            self._line += text
        return True

    def feed(self, piece: Piece) -> Finding | None:
        """Takes the next piece; the finding accuses the text from the tag on."""
        began = None
        if self._tag or "<" in piece.text:
            began = self._look_for_tag(piece)
        elif piece.text:
            self._before = piece.text[-1]
        fenced = self._fenced
        finding = super().feed(piece)
        if began is None or fenced or self._fenced or not self._any_tool:
            return finding
        return Violation("tool.leak", "tag of a call in the text", {}).finding("text", piece.position, began)

    def _look_for_tag(self, piece: Piece) -> int | None:
        """Token that a bare tag begins in, which is complete now."""
        found = None
        for character in piece.text:
            if self._tag and CALL_OPEN.startswith(self._tag + character):
                self._tag += character
                if self._tag == CALL_OPEN:
                    found = self._tag_began if found is None and self._before not in _QUOTES else found
                    self._before, self._tag = ">", ""
                continue
            if self._tag:
                self._before, self._tag = self._tag[-1], ""
            if character == "<":
                self._tag, self._tag_began = "<", piece.position
            else:
                self._before = character
        return found
