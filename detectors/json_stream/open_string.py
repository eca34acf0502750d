"""The string or key that is open: its escapes, and the checks that can fail before its closing quote.

Must not: know what stands around a string (that is `automaton.py`), or keep the text of one that nobody watches.
Invariant: a check fails at the first byte after which no string of the schema's begins so.
"""

from __future__ import annotations

import json

from detectors.json_stream.compiled import UNCHECKED, CompiledSchema
from detectors.json_stream.evaluation import Evaluation
from detectors.json_stream.nodes import STRING
from detectors.json_stream.plan import Watcher
from detectors.json_stream.strings import can_be, can_become, can_go_on, characters
from detectors.json_stream.trip import Rules

(S_VALUE, S_FIRST_ITEM, S_FIRST_KEY, S_KEY, S_COLON, S_AFTER, S_END) = range(7)
(S_STRING, S_ESCAPE, S_HEX, S_UTF8, S_NUMBER, S_LITERAL) = range(7, 13)
MAX_KEY_BYTES = 1 << 16
_HEX = {c: int(chr(c), 16) for c in b"0123456789abcdefABCDEF"}
_NO_KEYS: frozenset[str] = frozenset()


class OpenString(Evaluation):
    """At most one string is open. `_dead`: dead nodes of its place, or of any open scalar's."""

    __slots__ = (
        "_counting", "_dead", "_high", "_keeping", "_length", "_string_at", "_text",
        "_unit", "_unit_digits", "_unwatched", "_watching",
    )  # fmt: skip

    def __init__(self, compiled: CompiledSchema, rules: Rules) -> None:
        super().__init__(compiled, rules)
        self._dead = 0
        self._string_at = 0
        self._watching: tuple[Watcher, ...] = ()
        self._unwatched = self._counting = self._keeping = False
        self._text, self._length = b"", 0
        self._high = self._unit = self._unit_digits = 0

    def _value_string(self) -> None:
        """The opening quote of a value; `_dead` is set."""
        watchers = self._link.plan.watchers
        self._open_string([w for w in watchers if not self._dead & w[1]] if watchers else [])

    def _key_begins(self) -> None:
        frame = self._stack[-1]
        plan = frame.plan
        self._in_key = True
        watching = [w for w in plan.closed if not frame.dead & w[1]] if plan.closed else []
        if plan.named:
            self._link = self.compiled.name(plan)
            self._dead = self._begin(STRING)
            watching += [w for w in self._link.plan.watchers if not self._dead & w[1]]
        else:
            self._link, self._dead = UNCHECKED, 0
        self._open_string(watching)

    def _open_string(self, watching: list[Watcher]) -> None:
        self._text, self._length, self._string_at = b"", 0, self._at
        self._high, self._unwatched = 0, False
        self._watch(watching)
        if watching and self.trip is None and self._in_key:  # a value's enums have at least one option
            self._drop([w for w in watching if w[0] and not can_become(w[3], b"", self._taken(w))])

    def _watch(self, watching: list[Watcher]) -> None:
        """Only what these need is kept: the text for options and keys, the length for limits."""
        self._watching = tuple(watching)
        self._counting, self._keeping = False, self._in_key
        for watcher in watching:
            if watcher[2] == "maxLength":
                self._counting = True
            else:
                self._keeping = True

    def _taken(self, watcher: Watcher) -> set[str] | frozenset[str]:
        return self._stack[-1].seen if watcher[0] else _NO_KEYS

    def _drop(self, failed: list[Watcher]) -> None:
        """These watchers' nodes die at the current byte."""
        if not failed:
            return
        self._watch([w for w in self._watching if w not in failed])
        for own, bit, keyword, data in failed:
            if own:
                level = len(self._stack) - 1
                frame = self._stack[level]
                self._blame = (frame.plan.nodes[bit.bit_length() - 1], keyword, level)
                self._kill(level, bit)
                if self.trip is not None and self._text and can_become(data, self._text):
                    self._again()
            else:
                node = self._link.plan.nodes[bit.bit_length() - 1]
                self._dead = self._scalar_fails(self._dead, bit, self._link, node, keyword)
            if self.trip is not None:
                return

    def _again(self) -> None:
        """The only declared keys that begin so are taken: what failed is a duplicate."""
        self.trip = None
        self._fail("duplicate_key")

    def _grow(self, piece: bytes, at: int, escaped: bool = False) -> None:
        """The string goes on with `piece`, UTF-8, which began at offset `at` (or ends there, if it is escaped)."""
        if not self._watching and not self._in_key:
            return
        text = self._text + piece
        length = self._length + characters(piece) if self._counting else 0
        if not (self._in_key and len(text) > MAX_KEY_BYTES) and not self._failing(text, length):
            self._keep(text, length)
            return
        before, start = self._text, self._length
        for end in range(1, len(piece) + 1):
            self._at = at if escaped else at + end - 1
            text = before + piece[:end]
            self._keep(text, start + characters(piece[:end]))
            if self._in_key and len(text) > MAX_KEY_BYTES and self.rules.keys is not None:
                self._fail("limit_keys")
            self._drop(self._failing(text, self._length))
            if self.trip is not None:
                return

    def _keep(self, text: bytes, length: int) -> None:
        self._length = length
        self._text = text if self._keeping else b""

    def _failing(self, text: bytes, length: int) -> list[Watcher]:
        failed = []
        for watcher in self._watching:
            if watcher[2] == "maxLength":
                if length > watcher[3]:
                    failed.append(watcher)
            elif not can_become(watcher[3], text, self._taken(watcher)):
                failed.append(watcher)
        return failed

    def _escape_begins(self) -> None:
        """A backslash: another character follows, whichever."""
        failed = []
        for watcher in self._watching:
            if watcher[2] == "maxLength":
                if self._length >= watcher[3]:
                    failed.append(watcher)
            elif not can_go_on(watcher[3], self._text, 0, 0, 0xFFFF, self._taken(watcher)):
                failed.append(watcher)
        self._drop(failed)

    def _hex_digit(self, c: int) -> int:
        digit = _HEX.get(c)
        if digit is None:
            self._fail("syntax")
            return S_HEX
        self._unit = self._unit << 4 | digit
        self._unit_digits += 1
        first, second = self._unit_digits == 1, self._unit_digits == 2
        is_low = second and 0xDC <= self._unit <= 0xDF
        if (first and self._high and digit != 0xD) or (second and is_low is not bool(self._high)):
            self._lone()
        if self.trip is not None:
            return S_HEX
        open_bits = 4 * (4 - self._unit_digits)
        low = self._unit << open_bits
        high = low | (1 << open_bits) - 1
        self._drop(
            [
                w
                for w in self._watching
                if w[2] != "maxLength" and not can_go_on(w[3], self._text, self._high, low, high, self._taken(w))
            ]
        )
        if open_bits or self.trip is not None:
            return S_HEX
        if self._high and 0xDC00 <= low <= 0xDFFF:
            point = 0x10000 + (self._high - 0xD800 << 10) + (low - 0xDC00)
            self._high = 0
            self._grow(chr(point).encode(), self._at, True)
        elif 0xD800 <= low <= 0xDBFF:
            self._high = low
        else:
            self._grow(chr(low).encode("utf-8", "surrogatepass"), self._at, True)
        return S_STRING

    def _lone(self) -> None:
        """Half a surrogate pair. If it is let through, nobody judges this string before the end."""
        if self.rules.lone_surrogates:
            self._fail("lone_surrogate")
            return
        if self._high:
            self._text += chr(self._high).encode("utf-8", "surrogatepass")
        self._high = 0
        self._watching, self._unwatched = (), True

    def _string_ends(self) -> int:
        """The closing quote."""
        if self._watching:
            self._drop(
                [w for w in self._watching if w[2] != "maxLength" and not can_be(w[3], self._text, self._taken(w))]
            )
        link = self._link
        if self.trip is None and link.plan.checks and not self._unwatched:
            value = json.loads(self._raw(self._string_at, self._at + 1))
            self._dead = self._check_whole(self._dead, link, link.plan.checks, value)
        if self.trip is not None:
            return S_STRING
        if self._in_key:
            return self._key_ends()
        if self._unwatched and link.plan.all:
            if self._stack:
                self._own(len(self._stack) - 1).unknown |= sum(mask for _, mask in link.uses)
                self._member_done(self._at + 1)
        else:
            self._end_scalar(STRING, self._dead)
        return S_AFTER if self._stack else S_END

    def _key_ends(self) -> int:
        frame = self._stack[-1]
        key = self._text.decode("utf-8", "surrogatepass")
        if self.rules.duplicate_keys and key in frame.seen:
            self._fail("duplicate_key")
        elif self.rules.keys is not None and len(frame.seen) >= self.rules.keys:
            self._fail("limit_keys")
        else:
            self._end_text(STRING, self._dead)
            if self.trip is None:
                self._in_key = False
                self._key_done(key)
        return S_COLON
