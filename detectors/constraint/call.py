"""Which text may follow in a tool call so that it can still become a valid one, in the plain form of the markup.

Must not: allow what `QwenStream` refuses, or leave a way that ends nowhere: a tag, a name or a key may only begin if it
can be completed, a value may only end if it is whole.
Invariant: a call whose `feed` never gave False and that is `complete` is valid for the final verdict.

White space around tags is free for the reader of calls; here it is the template's line break, or a little more, because
a model that is kept from the wrong token might otherwise say white space for ever. As far as a schema is checked late
(see `json_stream.exactness`), a way may still end nowhere; the engine then gives the constraint up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy

from detectors.constraint.plain_number import can_end_plainly
from detectors.qwen_stream import QwenStream
from detectors.schema_types import closed_properties
from detectors.tool_schema import ToolSchemas

MOST_BLANK = 4
"""Characters of white space in a row around tags."""
MOST_BLANK_IN_JSON = 64
"""And around what JSON is made of: as deep an indentation as models write."""
_FUNCTION, _PARAMETER, _FUNCTION_END, _VALUE_END = "\n<function=", "<parameter=", "</function>", "\n</parameter>\n"
_DEEP = 1
_MOST_HELD = 64
"""A value that may be text or something else is read as both anew with every token, but only while it is short."""


class CallConstraint:
    """The body of one call. names: the functions it may call; strict: those whose arguments are constrained."""

    def __init__(self, schemas: ToolSchemas, names: Sequence[str], strict: frozenset[str]) -> None:
        self._names, self._strict, self._schemas = tuple(names), strict, schemas
        self._stream = QwenStream(schemas)
        self._blank = 0
        self._ways: tuple[tuple[str, ...] | None, bool] | None = None
        self._alive = True

    @property
    def free(self) -> bool:
        """The function is one whose arguments are not constrained."""
        return bool(self._stream.name) and self._stream.name not in self._strict

    @property
    def complete(self) -> bool:
        """Behind the function, and its arguments are valid."""
        return self._alive and self._stream.place == "end" and self._find_ways()[1]

    def clone(self) -> CallConstraint:
        other = copy(self)
        other._stream = self._stream.clone()
        return other

    def feed(self, text: str, tail: bytes = b"") -> bool:
        """Takes the next text; False = no valid call can follow. tail: the beginning of a character behind it."""
        if self._alive and not self.free and text:
            place, keys = self._stream.place, self._stream.keys
            self._alive = self._stream.feed(text, 0) is None and not self._is_blank_for_ever(text, place)
            if name := self._stream.name:
                self._alive = name in self._names and (self._alive or self.free)
            if place != self._stream.place or keys is not self._stream.keys:
                self._ways = None
        return self._alive and (self.free or self._can_go_on(tail))

    def _is_blank_for_ever(self, text: str, before: str) -> bool:
        stream = self._stream
        if stream.place in ("between", "end"):
            spaces = len(text) - len(text.rstrip())
            self._blank = self._blank + spaces if spaces == len(text) and before == stream.place else spaces
            return self._blank > MOST_BLANK
        self._blank = 0
        if stream.place != "long" or stream.value.mode != "json" or stream.arguments is None:
            return False
        # a line break that is pending may begin the end of the value
        return stream.arguments.blank + stream.value.blank > MOST_BLANK_IN_JSON

    def _can_go_on(self, tail: bytes) -> bool:
        stream = self._stream
        match stream.place:
            case "function":
                heads = (f"{_FUNCTION}{name}>" for name in self._names)
                return _begins_one(stream.pending, tail, heads)
            case "between":
                return self._can_follow(stream.pending, tail)
            case "value":
                return not tail
            case "long":
                return self._can_be_value(tail)
            case "end":
                return not tail and self.complete
        return False  # a value on the line of its tag, or a tag too long to be followed

    def _can_follow(self, text: str, tail: bytes) -> bool:
        """The beginning of a tag between parameters."""
        keys, may_end = self._find_ways()
        if may_end and _begins_one(text, tail, (_FUNCTION_END,)):
            return True
        if keys is None:
            begun = text[len(_PARAMETER) :]
            return text[: len(_PARAMETER)] == _PARAMETER[: len(text)] and not begun[:1].isspace()
        return _begins_one(text, tail, (f"{_PARAMETER}{key}>" for key in keys))

    def _find_ways(self) -> tuple[tuple[str, ...] | None, bool]:
        """The parameters that may come next (None = any), and whether the arguments are valid as they are."""
        if self._ways is None:
            stream = self._stream
            keys = closed_properties(self._schemas.parameters(stream.name))
            if keys is not None:
                keys = tuple(key for key in keys if self._takes(key))
            ended = stream.arguments.clone() if stream.arguments is not None else None
            may_end = ended is not None and ended.feed(b"}") is None and ended.finish().trip is None
            self._ways = keys, may_end
        return self._ways

    def _takes(self, key: str) -> bool:
        other = self._stream.clone()
        rest = f"{_PARAMETER}{key}>"[len(other.pending) :]
        return other.feed(rest, 0) is None and other.place == "value"

    def _can_be_value(self, tail: bytes) -> bool:
        stream = self._stream
        if stream.value.mode == "held" and stream.value.only_json:
            return False  # a word of Python, which is understood only at its end
        if stream.arguments is not None and not can_end_plainly(stream.arguments):
            return False
        if stream.value.held > _MOST_HELD or stream.may_be_value(tail):
            return True
        return not tail and bool(stream.pending) and self._can_end_value()

    def _can_end_value(self) -> bool:
        other = self.clone()
        stream = other._stream
        if stream.feed(_VALUE_END[len(stream.pending) :], 0) is not None or stream.place != "between":
            return False
        other._ways = None
        depth = stream.arguments.depth if stream.arguments is not None else 0
        keys, may_end = other._find_ways()
        return depth == _DEEP and (may_end or keys is None or bool(keys))


def _begins_one(text: str, tail: bytes, wholes: Iterable[str]) -> bool:
    """Whether text, and the bytes of an unfinished character behind it, begin one of these."""
    begun = text.encode("utf-8", "surrogatepass") + tail
    return any(whole.encode("utf-8", "surrogatepass").startswith(begun) for whole in wholes)
