"""The raw text of one `qwen_xml` parameter, as JSON while it comes.

Must not: judge it (the JSON stream does), or know the markup around it.
Invariant: the bytes of opening, all of more, and closing are the JSON of what `qwen_xml.typed` makes of the whole text,
up to white space; where that is refused in the end, they are refused too.
"""

from __future__ import annotations

import json
from copy import copy
from typing import Any, Literal

from detectors.qwen_xml import typed
from detectors.schema_types import admitted_types, is_bound, property_schema

_PYTHON_STARTS = frozenset("TFN")
_JSON_STARTS = frozenset('{["-0123456789tfn')
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes an encoder each time


class QwenValue:
    """Turns the raw text of one parameter into JSON as it comes.

    text: it can only be a string. json: it cannot be one, so it is what stands there, white space around it left
    out. held: what it is is known only at its end (as for words of Python that mean a literal).
    """

    def __init__(self, root: Any = None, key: str = "") -> None:
        self._root = root if root is not None else {}
        self._schema = property_schema(self._root, key)
        admitted = frozenset({"string"}) if self._schema is None else admitted_types(self._schema, self._root)
        is_json = "string" not in admitted and is_bound(self._root, key)
        self._mode: Literal["text", "json", "held"]
        self._mode = "text" if admitted == {"string"} else "json" if is_json else "held"
        self.only_json = is_json
        self._held: list[str] = []
        self._space = ""
        self._begun = False

    @property
    def mode(self) -> Literal["text", "json", "held"]:
        return self._mode

    @property
    def blank(self) -> int:
        """White space around JSON that is not passed on yet."""
        return len(self._space)

    def clone(self) -> QwenValue:
        """An independent copy."""
        other = copy(self)
        other._held = self._held.copy()
        return other

    def readings(self, text: str) -> tuple[bytes, ...]:
        """What the bytes to come can begin with if `text` belongs to the value too; one for each way to read it."""
        if self._mode == "text":
            return (_escaped(text),)
        if self._mode == "held":
            text = "".join(self._held) + text
            as_json = text.lstrip().encode("utf-8", "surrogatepass")
            as_text = b'"' + _escaped(text)
            return (as_text, as_json) if text.lstrip()[:1] in _JSON_STARTS - {'"'} else (as_text,)
        text = self._space + text
        if not self._begun:
            text = text.lstrip()
            if text and text[0] not in _JSON_STARTS:
                return (b'"' + _escaped(text),)
        return (text.encode("utf-8", "surrogatepass"),)

    @property
    def held(self) -> int:
        """Pieces of text that are judged at the end."""
        return len(self._held)

    @property
    def is_held(self) -> bool:
        return self._mode == "held" and bool(self._held)

    def opening(self) -> bytes:
        return b'"' if self._mode == "text" else b""

    def more(self, text: str) -> bytes:
        if self._mode == "text":
            return _escaped(text)
        if self._mode == "json":
            text = self._space + text
            shown = text.rstrip()
            self._space = text[len(shown) :]
            if not self._begun:
                shown = shown.lstrip()
                self._begun = bool(shown)
                if shown and shown[0] in _PYTHON_STARTS:
                    self._mode, text = "held", shown + self._space
                elif shown and shown[0] not in _JSON_STARTS:  # no JSON, so text, which the schema does not admit
                    self._mode = "text"
                    return b'"' + self.more(shown + self._space)
            if self._mode == "json":
                return shown.encode("utf-8", "surrogatepass")
        self._held.append(text)
        return b""

    def closing(self) -> bytes:
        if self._mode == "text":
            return b'"'
        if self._mode == "json" and self._begun:
            return b" "  # ends a number
        value = typed("".join(self._held), self._schema, self._root)
        self._held = []
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _escaped(text: str) -> bytes:
    return _ENCODE(text)[1:-1].encode("utf-8", "surrogatepass")
