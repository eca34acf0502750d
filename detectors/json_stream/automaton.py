"""Bytes of a JSON value, in pieces of any size, to the byte after which no valid value can follow.

Must not: raise for any input, or look at a byte twice (a piece is scanned as a whole, and again only to find
the byte at which something failed).
Invariant: verdict and offset do not depend on how the input was cut; a clone and its original never affect each
other.

RFC 8259 over strict UTF-8, no byte order mark. Numbers are decided at the byte that ends them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from detectors.json_stream.compiled import CompiledSchema
from detectors.json_stream.nodes import ARRAY, FALSE, NULL, NUMBER, OBJECT, STRING, TRUE
from detectors.json_stream.open_number import OpenNumber
from detectors.json_stream.open_string import (
    S_AFTER,
    S_COLON,
    S_END,
    S_ESCAPE,
    S_FIRST_ITEM,
    S_FIRST_KEY,
    S_HEX,
    S_KEY,
    S_LITERAL,
    S_NUMBER,
    S_STRING,
    S_UTF8,
    S_VALUE,
)  # fmt: skip
from detectors.json_stream.trip import Rules, Trip

_CHUNK = 4096
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(rb"[ \t\n\r]*+")
_CHARACTER = (
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
_ASCII = rb"[\x20\x21\x23-\x5b\x5d-\x7f]*+"
_PLAIN = re.compile(_ASCII + rb"(?:(?:" + _CHARACTER + rb")" + _ASCII + rb")*+")
# Where nobody watches a string, its simple escapes are passed over as well.
_UNWATCHED = re.compile(_ASCII + rb"(?:(?:\\[\"\\/bfnrt]|" + _CHARACTER + rb")" + _ASCII + rb")*+")
_KINDS = dict.fromkeys(b"-0123456789", NUMBER) | {34: STRING, 123: OBJECT, 91: ARRAY, 116: TRUE, 102: FALSE, 110: NULL}
_LITERALS = {TRUE: b"rue", FALSE: b"alse", NULL: b"ull"}
_ESCAPES = {34: b'"', 92: b"\\", 47: b"/", 98: b"\b", 102: b"\f", 110: b"\n", 114: b"\r", 116: b"\t"}


# First continuation byte where it is narrower than 80..bf (no overlong forms, surrogates, or beyond U+10FFFF).
_NARROW = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}

Chain = tuple[Any, bytes, int] | None
"""What came before, a piece, its offset: shared between clones, never changed."""


@dataclass(frozen=True, slots=True)
class Final:
    """The verdict on a whole value. trip: None = valid. value: as parsed, None where it could not be."""

    value: Any
    trip: Trip | None


class JsonStream(OpenNumber):
    """One value. `trip` stays once set.

    floor: so many containers must stay as they are: they neither end nor get a further member.
    """

    __slots__ = (
        "_chain", "_chunk", "_chunk_at", "_fed", "_high_bound", "_kind", "_literal", "_low_bound", "_most_space",
        "_need", "_space", "_state", "floor",
    )  # fmt: skip

    def __init__(self, compiled: CompiledSchema, rules: Rules = Rules()) -> None:  # noqa: B008 (frozen)
        super().__init__(compiled, rules)
        self._chain: Chain = None
        self._chunk, self._chunk_at = b"", 0
        self._fed = 0
        self._state = S_VALUE
        self._space = 0
        self._most_space: float = float("inf") if rules.whitespace_run is None else rules.whitespace_run
        self._kind = 0
        self._need = self._low_bound = self._high_bound = 0
        self._literal = b""
        self.floor = 0

    @property
    def fed(self) -> int:
        """Bytes taken so far."""
        return self._fed

    @property
    def complete(self) -> bool:
        """Whether the value is whole (a bare number is not before something follows); it may still be invalid."""
        return self._state == S_END and self.trip is None

    @property
    def blank(self) -> int:
        """White space outside of strings since the last byte that is none."""
        return self._space

    @property
    def number(self) -> bytes:
        """The number that is open, as far as it came; empty = none is."""
        return self._number if self._state == S_NUMBER else b""

    @property
    def is_in_free_string(self) -> bool:
        """In a string value of which nothing is demanded any more."""
        return self._state == S_STRING and not (self._watching or self._in_key or self._high)

    @property
    def depth(self) -> int:
        """Open containers."""
        return len(self._stack)

    def clone(self) -> JsonStream:
        """An independent copy, in time that does not grow with what was fed (open containers apart)."""
        other = JsonStream.__new__(JsonStream)
        for name in _SLOTS:
            setattr(other, name, getattr(self, name))
        other._stack = self._stack.copy()
        other._owner, self._owner = object(), object()  # each copies a shared container before changing it
        return other

    def raw(self) -> bytes:
        """All bytes fed, up to the call in which it tripped."""
        return self._raw(0, self._fed)

    def finish(self) -> Final:
        """No more bytes come. Changes nothing: a clone or this stream may go on. The verdict is jsonschema-rs's."""
        if self.trip is not None:
            return Final(None, self.trip)
        if self._state == S_NUMBER and not self._stack:
            ended = self.clone()
            ended.feed(b" ")
            return Final(None, ended.trip) if ended.trip is not None else ended._verdict(self.raw())
        raw = self.raw()
        if not raw and self.rules.empty_is_object:
            raw = b"{}"
        elif self._state != S_END:
            return Final(None, self._end_trip("truncated", "", "", ""))
        return self._verdict(raw)

    def _verdict(self, raw: bytes) -> Final:
        try:
            text = raw.decode()
            value = json.loads(text)
            if not self.rules.lone_surrogates and "\\u" in text:
                value = json.loads(_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
            error = next(iter(self.compiled.validator.iter_errors(value)), None)
        except (ValueError, RecursionError):
            return Final(None, self._end_trip("limit_depth", "", "", ""))
        if error is None:
            return Final(value, None)
        paths = ["".join("/" + _escaped(step) for step in p) for p in (error.instance_path, error.schema_path)]
        return Final(value, self._end_trip("schema", error.kind.name, *paths))

    def _end_trip(self, kind: Any, keyword: str, instance_path: str, schema_path: str) -> Trip:
        return Trip(kind, keyword, instance_path, schema_path, self._fed, self.compiled.exactness)

    def feed(self, data: bytes) -> Trip | None:
        """Takes the next bytes; None = still alive. What comes after a trip is ignored."""
        if self.trip is not None:
            return self.trip
        base, n = self._fed, len(data)
        too_long = self.rules.size is not None and base + n > self.rules.size
        if too_long:
            n = max(0, (self.rules.size or 0) - base)
            data = data[:n]
        if len(self._chunk) < _CHUNK:
            self._chunk += data
        else:
            self._chain, self._chunk_at = (self._chain, self._chunk, self._chunk_at), base
            self._chunk = bytes(data)
        self._fed = base + n
        state, i = self._state, 0
        while i < n:
            if state == S_STRING:
                if self._high and data[i] != 92:
                    self._at = base + i
                    self._lone()
                    if self.trip is not None:
                        break
                if self._watching or self._in_key:
                    end = _PLAIN.match(data, i).end()  # type: ignore[union-attr]
                    if end > i:
                        self._grow(data[i:end], base + i)
                        if self.trip is not None:
                            break
                else:
                    plain = _PLAIN if self._high else _UNWATCHED
                    end = plain.match(data, i).end()  # type: ignore[union-attr]
                if end > i:
                    i = end
                    if i == n:
                        break
                c, self._at = data[i], base + i
                if c == 34:
                    state = self._string_ends()
                elif c == 92:
                    if self._watching and not self._high:
                        self._escape_begins()
                    state = S_ESCAPE
                elif c < 0xC2 or c > 0xF4:
                    self._fail("syntax")
                else:
                    self._need = 1 + (c >= 0xE0) + (c >= 0xF0)
                    self._low_bound, self._high_bound = _NARROW.get(c, (0x80, 0xBF))
                    self._grow(data[i : i + 1], base + i)
                    state = S_UTF8
                i += 1
            elif state <= S_END:
                c = data[i]
                if c in b" \t\n\r":
                    end = i + 1
                    if end < n and data[end] <= 32:
                        end = _SPACE.match(data, i).end()  # type: ignore[union-attr]
                    self._space += end - i
                    if self._space > self._most_space:
                        self._blank(base + end)
                    i = end
                else:
                    self._space, self._at = 0, base + i
                    state = self._structure(state, c)
                    i += 1
            elif state == S_NUMBER:
                i, state = self._digits(data, i, base)
            else:
                self._at = base + i
                state = self._inner(state, data[i], data[i : i + 1])
                i += 1
            if self.trip is not None:
                break
        self._state = state
        if too_long and self.trip is None:
            self._at = base + n
            self._fail("limit_size")
        return self.trip

    def _structure(self, state: int, c: int) -> int:
        """A byte outside of strings, numbers and literals that is no white space."""
        if state == S_AFTER:
            if len(self._stack) == self.floor:
                self._fail("syntax")
                return state
            frame = self._stack[-1]
            if c == 44:
                if frame.is_object:
                    self._next_member()
                    return S_KEY
                self._next_element()
                return S_VALUE
            if c == (125 if frame.is_object else 93):
                return self._container_ends()
        elif state <= S_FIRST_ITEM:
            kind = _KINDS.get(c)
            if kind is not None:
                if state == S_FIRST_ITEM:
                    self._first_member()
                    if self.trip is not None:
                        return state
                return self._value_begins(kind, c)
            if c == 93 and state == S_FIRST_ITEM:
                return self._container_ends()
        elif state == S_COLON:
            if c == 58:
                return S_VALUE
        elif state != S_END:
            if c == 34:
                if state == S_FIRST_KEY:
                    self._first_member()
                    if self.trip is not None:
                        return state
                self._key_begins()
                return S_STRING
            if c == 125 and state == S_FIRST_KEY:
                return self._container_ends()
        self._fail("syntax")
        return state

    def _value_begins(self, kind: int, c: int) -> int:
        if kind in (OBJECT, ARRAY):
            self._open(kind == OBJECT)
            return S_FIRST_KEY if kind == OBJECT else S_FIRST_ITEM
        if not self._stack and self.rules.root_object:
            self._fail("not_an_object")
            return S_VALUE
        self._dead = self._begin(kind)
        if kind == STRING:
            self._value_string()
            return S_STRING
        if kind == NUMBER:
            self._number_begins(c)
            return S_NUMBER
        self._kind, self._literal = kind, _LITERALS[kind]
        return S_LITERAL

    def _container_ends(self) -> int:
        self._close()
        return S_AFTER if self._stack else S_END

    def _blank(self, end: int) -> None:
        """Much white space between tokens, up to offset `end`: a model that falls into it rarely comes out again."""
        most = int(self._most_space) + 8 * len(self._stack)
        if self._space > most:
            self._at = end - (self._space - most)
            self._fail("whitespace_run")

    def _inner(self, state: int, c: int, piece: bytes) -> int:
        """A byte of a literal, an escape or a character of several bytes."""
        if state == S_LITERAL:
            if c != self._literal[0]:
                self._fail("syntax")
                return state
            self._literal = self._literal[1:]
            if self._literal:
                return S_LITERAL
            self._end_scalar(self._kind, self._dead)
            return S_AFTER if self._stack else S_END
        if state == S_UTF8:
            if not self._low_bound <= c <= self._high_bound:
                self._fail("syntax")
            self._low_bound, self._high_bound = 0x80, 0xBF
            self._need -= 1
            self._grow(piece, self._at)
            return S_UTF8 if self._need else S_STRING
        if state == S_ESCAPE:
            if self._high and c != 117:
                self._lone()
            if c == 117:
                self._unit = self._unit_digits = 0
                return S_HEX
            if c not in _ESCAPES:
                self._fail("syntax")
            elif self.trip is None:
                self._grow(_ESCAPES[c], self._at, True)
            return S_STRING
        return self._hex_digit(c)

    def _raw(self, start: int, end: int) -> bytes:
        pieces: list[bytes] = []
        link: Chain = (self._chain, self._chunk, self._chunk_at)
        at = 0
        while link is not None:
            link, piece, at = link
            pieces.append(piece)
            if at <= start:
                break
        return b"".join(reversed(pieces))[start - at : end - at]


_SLOTS = tuple(name for cls in JsonStream.__mro__ for name in getattr(cls, "__slots__", ()))


def _escaped(step: str | int) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")
