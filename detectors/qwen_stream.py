"""Follows the body of a `qwen_xml` call while it streams: its markup, and its arguments as JSON bytes under the schema.

Must not: accept or refuse a complete call (that is `qwen_xml.read_call` and `ToolSchemas.check`), or refuse a
beginning that they could still accept (`Rules`' own classes apart).
Invariant: the violation and the token it is found at do not depend on how the text was cut, tokens apart.

A name or a key is judged when it is complete, so that the violation can name it; a text value is judged character by
character, a JSON value byte by byte; a value that may be either is judged at its end. What is missing is the
final verdict's to say.
"""

from __future__ import annotations

import json
import re
from copy import copy
from typing import Any, Literal

from detectors.elements import ElementRun, ElementRuns, ElementSettings
from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.trip import Rules, Trip
from detectors.qwen_value import QwenValue
from detectors.tool_schema import ToolSchemas, Violation

ARGUMENT_RULES = Rules(depth=129, size=None)
"""One level for the arguments themselves; the size of a call is limited where it is held."""
_MAX_TAG = 1024
_FUNCTION, _PARAMETER, _FUNCTION_END = "<function=", "<parameter=", "</function>"
_VALUE_END, _SHORT_END = "\n</parameter>", "</parameter>"
_NESTED = re.compile(r"<tool_call>\s*<(?:function=|tool_call>)")
_NESTED_OPEN = re.compile(r"<tool_call>\s*(<[a-z_=>]*)?\Z")
_PLAIN = re.compile(r"\w+")
_UNCLOSED = re.compile(r"<(?:parameter|function)=[^<>\n]*>\s*\Z")


Place = Literal["function", "between", "value", "short", "long", "end", "unwatched"]
"""In or before the function's tag; between parameters; right behind a parameter's tag; in a value on the line of its
tag, or in one of any number of lines; behind the function; in a tag too long to be followed."""


class QwenStream:
    """One call. `violation`: what is wrong already, None = nothing; it stays.

    began: the token that the violation is about, or that the tag or value that it is about began in. elements: when
    equal elements of an array count as a loop.
    """

    def __init__(self, schemas: ToolSchemas, elements: ElementSettings = ElementSettings()) -> None:  # noqa: B008 (frozen)
        self._schemas = schemas
        self._state: Place = "function"
        self._buffer = ""
        self._name = ""
        self._schema: Any = None
        self._json: JsonStream | None = None
        self._keys: frozenset[str] = frozenset()
        self._value = QwenValue()
        self._drops_newline = False
        self._line: str | None = None
        self._nesting = ""
        self._elements = ElementRuns(elements)
        self._position = 0
        self.repeated: ElementRun | None = None  # what the last feed found
        self.violation: Violation | None = None
        self.began = 0

    def feed(self, text: str, position: int) -> Violation | None:
        """Takes the next text of the body. position: index of the token that it is from."""
        self.repeated, self._position = None, position
        if self.violation is None and self._state != "unwatched":
            if self._state == "value" or not ((self._is_at_tag() and self._buffer.strip()) or self._value.is_held):
                self.began = position
            self._look_for_nesting(text)
            self._buffer += text
            if self._is_inside_tag(text):
                return self.violation
            while self.violation is None and self._advance():
                pass
        return self.violation

    @property
    def place(self) -> Place:
        return self._state

    @property
    def is_in_free_text(self) -> bool:
        """In a value of any number of lines that is text and may be any text: nothing without a `<` can be wrong."""
        return (
            self._state == "long"
            and self._value.mode == "text"
            and not (self._nesting or self._line or "<" in self._buffer)
            and self._json is not None
            and self._json.is_in_free_string
        )

    @property
    def pending(self) -> str:
        """Text that is not yet known to be markup or value; in a tag, all of it so far."""
        return self._buffer

    @property
    def name(self) -> str:
        """The function's, "" while it is not known."""
        return self._name

    @property
    def keys(self) -> frozenset[str]:
        """Parameters so far."""
        return self._keys

    @property
    def value(self) -> QwenValue:
        """Of the parameter that is open, or was last."""
        return self._value

    @property
    def arguments(self) -> JsonStream | None:
        """The arguments so far; None while the function is not known."""
        return self._json

    def clone(self) -> QwenStream:
        """An independent copy."""
        other = copy(self)
        other._value = self._value.clone()
        if self._json is not None:
            other._json = self._json.clone()
        return other

    def may_be_value(self, tail: bytes = b"") -> bool:
        """Whether all pending text, and `tail` behind it, may belong to the open value."""
        text = self._buffer[1:] if self._drops_newline else self._buffer
        return any(self._stays_alive(reading + tail) for reading in self._value.readings(text))

    def _stays_alive(self, data: bytes) -> bool:
        other = self.clone()
        other._check_line()
        other._send(data)
        return other.violation is None

    def _is_at_tag(self) -> bool:
        return self._state in ("function", "between")

    def _is_inside_tag(self, text: str) -> bool:
        """Whether a tag that is open got some more of a plain name: nothing can be said of it before it ends."""
        if not self._is_at_tag() or not _PLAIN.fullmatch(text):
            return False
        opening = _FUNCTION if self._state == "function" else _PARAMETER
        room = _MAX_TAG - len(self._buffer)
        return room >= 0 and self._buffer.startswith(opening) and len(self._buffer) - len(text) >= len(opening)

    def _advance(self) -> bool:
        """One step, if the text at hand allows it."""
        match self._state:
            case "function":
                return self._read_function()
            case "between":
                return self._read_between()
            case "value":
                return self._begin_value()
            case "short":
                return self._read_short()
            case "long":
                return self._read_long()
            case "end":
                if self._buffer.strip():
                    self._refuse("text_outside")
                self._buffer = ""
        return False

    def _look_for_nesting(self, text: str) -> None:
        """`<tool_call>` before a function or another `<tool_call>`: the end of the call before it is missing."""
        if not self._nesting and "<" not in text:
            return
        window = self._nesting + text
        if _NESTED.search(window):
            self._refuse("nested_call")
            return
        at = window.rfind("<tool_call>")
        if at >= 0 and _NESTED_OPEN.match(window, at):
            rest = window[at + len("<tool_call>") :].lstrip()
            self._nesting = f"<tool_call>{rest}"
        else:
            at = window.rfind("<")
            tail = window[at:] if at >= 0 else ""
            self._nesting = tail if "<tool_call>".startswith(tail) else ""

    # Tags

    def _read_function(self) -> bool:
        name = self._tag(_FUNCTION)
        if name is None:
            if not self._may_become(_FUNCTION):
                self._refuse("missing_function")
            return False
        self._name = name.strip()
        self._schema = self._schemas.parameters(self._name)
        if not self._name:
            self._refuse("missing_function")
        elif self._schema is None:
            self.violation = self._schemas.unknown(self._name)
        else:
            self._json = JsonStream(self._schemas.compiled(self._name), ARGUMENT_RULES)
            self._send(b"{")
            self._state = "between"
        return True

    def _read_between(self) -> bool:
        self._buffer = self._buffer.lstrip()
        key = self._tag(_PARAMETER)
        if key is not None:
            return self._begin_parameter(key)
        if self._buffer.startswith(_FUNCTION_END):
            self._buffer = self._buffer[len(_FUNCTION_END) :]
            self._state = "end"
            return True
        if not self._may_become(_PARAMETER) and not _FUNCTION_END.startswith(self._buffer):
            self._refuse("text_outside")
        elif "=" in self._buffer[len(_PARAMETER) :]:
            self._refuse("bad_key", self._buffer[len(_PARAMETER) :].partition("=")[0])
        return False

    def _tag(self, opening: str) -> str | None:
        """What stands between `opening` and `>`, taken off the buffer; None = no such tag, or not yet."""
        text = self._buffer.lstrip()
        end = text.find(">")
        if not text.startswith(opening) or end < 0 or re.search(r"[<\n]", text[1:end]):
            return None
        self._buffer = text[end + 1 :]
        return text[len(opening) : end]

    def _may_become(self, opening: str) -> bool:
        """Whether the buffer may be the beginning of such a tag."""
        text = self._buffer.lstrip()
        if len(text) > _MAX_TAG:
            self._state = "unwatched"
            return True
        if len(text) <= len(opening):
            return opening.startswith(text)
        return text.startswith(opening) and not re.search(r"[<>\n]", text[1:])

    def _begin_parameter(self, key: str) -> bool:
        if not key or key != key.strip() or "=" in key:
            self._refuse("bad_key", key.partition("=")[0])
        elif key in self._keys:
            self._refuse("duplicate_parameter", key)
        else:
            comma = b"," if self._keys else b""
            self._keys |= {key}
            self._send(comma + json.dumps(key).encode() + b":", key)
            self._value = QwenValue(self._schema, key)
            self._send(self._value.opening())
            if self._json is not None:
                self._json.floor = 1  # a value that goes on behind its end is none
            self._state = "value"
        return True

    # Values

    def _begin_value(self) -> bool:
        if not self._buffer:
            return False
        self._state = "long" if self._buffer[0] == "\n" else "short"
        self._drops_newline, self._line = True, ""
        return True

    def _read_short(self) -> bool:
        """A value on the line of its tag."""
        end = self._buffer.find(_SHORT_END)
        newline = self._buffer.find("\n")
        if newline >= 0 and not 0 <= end < newline:
            self._refuse("malformed_markup")
        elif end >= 0:
            self._send(self._value.more(self._buffer[:end]))
            self._end_value(len(_SHORT_END), end)
            return True
        else:
            kept = next(n for n in range(len(_SHORT_END), -1, -1) if self._buffer.endswith(_SHORT_END[:n]))
            cut = len(self._buffer) - kept
            self._send(self._value.more(self._buffer[:cut]))
            self._buffer = self._buffer[cut:]
        return False

    def _read_long(self) -> bool:
        """A value of any number of lines, up to the next newline that may be its end."""
        newline = self._buffer.find("\n")
        if newline != 0:
            cut = len(self._buffer) if newline < 0 else newline
            self._say(self._buffer[:cut])
            self._buffer = self._buffer[cut:]
            return newline > 0
        if len(self._buffer) <= len(_VALUE_END) and _VALUE_END.startswith(self._buffer):
            return False
        following = self._buffer[len(_VALUE_END) : len(_VALUE_END) + 1]
        if self._buffer.startswith(_VALUE_END) and (following.isspace() or following == "<"):
            self._check_line()
            self._end_value(len(_VALUE_END), 0)
            return True
        if self._drops_newline:
            self._drops_newline = False
        else:
            self._check_line()
            self._line = ""
            self._send(self._value.more("\n"))
        self._buffer = self._buffer[1:]
        return True

    def _say(self, text: str) -> None:
        """Part of a line of a value."""
        self._drops_newline = False
        if self._line is not None:
            self._line += text
            known = self._line[: len(_FUNCTION)], self._line[: len(_PARAMETER)]
            if len(self._line) > _MAX_TAG or not (_FUNCTION.startswith(known[0]) or _PARAMETER.startswith(known[1])):
                self._line = None
        self._send(self._value.more(text))

    def _check_line(self) -> None:
        """A line that only opens a parameter or function means that the end of this value is missing."""
        if self._line and _UNCLOSED.match(self._line):
            self._refuse("malformed_markup")

    def _end_value(self, tag: int, at: int) -> None:
        self._buffer = self._buffer[at + tag :]
        self._send(self._value.closing())
        if self._json is not None:
            self._json.floor = 0
        self._state = "between"

    # Violations

    def _send(self, data: bytes, key: str = "") -> None:
        """Arguments so far. key: the parameter that just began."""
        if self._json is None or self.violation is not None or not data:
            return
        trip = self._json.feed(data)
        if trip is not None:
            self.violation = self._schemas.tripped(self._name, trip, key if _is_unexpected(trip) else "")
        else:
            self.repeated = self._elements.feed(data, self._position) or self.repeated

    def _refuse(self, reason: str, key: str = "") -> None:
        if self.violation is None:
            self.violation = Violation("tool.markup", reason, {"parameter": key[:128]})


def _is_unexpected(trip: Trip) -> bool:
    return trip.keyword == "additionalProperties" and not trip.instance_path
