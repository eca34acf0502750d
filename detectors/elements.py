"""Stalls inside JSON arguments: one array element over and over, whatever its shape.

Must not: parse values, or judge whether they are valid; it is fed with bytes that a validating stream accepted.
Invariant: run lengths do not depend on how the bytes were cut; memory is one small record per open container.

Two elements are equal if their bytes outside of white space are, keys in the same order; a model that is stuck does not
reorder. A key that repeats inside one object is a violation of its own, and short cycles of several elements are
`loop.period`'s.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from zlib import crc32

from detectors.finding import Finding, Grade

_PLAIN = re.compile(rb'[^"\\]*+')
_BLANK = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb'[^ \t\r\n"\[\]{},]++')


@dataclass(frozen=True, slots=True)
class ElementSettings:
    """Equal elements in a row of a JSON array."""

    data_suspect: int = 64
    """Elements without a word in them (numbers, literals, lists of such). Matrices, masks and tile maps are made of
    these, so they never reach a fallback; exact long runs do by `loop.period`."""

    words_suspect: int = 16
    words_fallback: int = 64
    """Elements with a word; a few equal rows are common, 64 are not."""

    word: int = 3
    """Bytes of a string from which on it is a word."""

    def __post_init__(self) -> None:
        if min(self.data_suspect, self.words_suspect) < 2 or self.word < 1:
            raise ValueError("data_suspect, words_suspect: must be 2 elements or more, and word 1 byte or more")
        if self.words_fallback < self.words_suspect:
            raise ValueError(f"words_fallback: must not be below words_suspect, {self.words_suspect}")


@dataclass(frozen=True, slots=True)
class ElementRun:
    """position, began: tokens at which the evidence was complete and at which the first copy had ended."""

    grade: Grade
    copies: int
    words: bool
    position: int
    began: int

    def finding(self, channel: str) -> Finding:
        reason = f"{self.grade.name.lower()}: an array element repeats"
        evidence = {"copies": self.copies, "words": self.words}
        return Finding("loop.elements", self.grade, channel, self.position, self.began, reason, evidence)


class _Open:
    """An open container, or the value outside of all. crc, size: of what belongs to its current element."""

    __slots__ = ("began", "crc", "in_array", "last", "run", "size", "told", "total", "words", "words_before")

    def __init__(self, in_array: bool) -> None:
        self.in_array = in_array
        self.crc = self.size = 0
        self.total = 0
        self.last: tuple[int, int] | None = None
        self.run, self.began = 0, 0
        self.words = self.words_before = False
        self.told: Grade | None = None


class ElementRuns:
    """The arguments of one call."""

    def __init__(self, settings: ElementSettings = ElementSettings()) -> None:
        self._settings = settings
        self._stack = [_Open(False)]
        self._in_string = self._escaped = False
        self._string = 0
        self._found: ElementRun | None = None

    @property
    def depth(self) -> int:
        """Containers that are open, and the value that they are in."""
        return len(self._stack)

    def feed(self, data: bytes, position: int) -> ElementRun | None:
        """Takes the next bytes, of token `position`; answers once per run and grade."""
        self._found = None
        at, end = 0, len(data)
        while at < end:
            at = self._in_text(data, at) if self._in_string else self._structure(data, at, position)
        return self._found

    def _in_text(self, data: bytes, at: int) -> int:
        top = self._stack[-1]
        if self._escaped:
            stop = at + 1
            self._escaped = False
        else:
            stop = _PLAIN.match(data, at).end()  # type: ignore[union-attr]
            if stop == at:
                stop = at + 1
                self._in_string = data[at] != 34
                self._escaped = data[at] == 92
        if self._in_string:
            self._string += stop - at
            top.words = top.words or self._string >= self._settings.word
        top.crc = crc32(data[at:stop], top.crc)
        top.size += stop - at
        return stop

    def _structure(self, data: bytes, at: int, position: int) -> int:
        c = data[at]
        if c in b" \t\r\n":
            return _BLANK.match(data, at).end()  # type: ignore[union-attr]
        top = self._stack[-1]
        stop = at + 1
        if c == 34:
            self._in_string, self._string = True, 0
        elif c in b"[{":
            self._stack.append(_Open(c == 91))
            return stop
        elif c in b"]}":
            self._close(position)
            return stop
        elif c == 44:
            if top.in_array:
                self._end_element(top, position)
                return stop
        else:
            stop = _SCALAR.match(data, at).end()  # type: ignore[union-attr]
        top.crc = crc32(data[at:stop], top.crc)
        top.size += stop - at
        return stop

    def _close(self, position: int) -> None:
        if len(self._stack) == 1:
            return
        top = self._stack[-1]
        if top.in_array and top.size:
            self._end_element(top, position)
        self._stack.pop()
        parent = self._stack[-1]
        whole = struct.pack("<?II", top.in_array, top.total if top.in_array else top.crc, top.size & 0xFFFFFFFF)
        parent.crc = crc32(whole, parent.crc)
        parent.size += len(whole)
        parent.words = parent.words or top.words or top.words_before

    def _end_element(self, top: _Open, position: int) -> None:
        element = (top.crc, top.size)
        if element == top.last:
            top.run += 1
            self._judge(top, position)
        else:
            top.last, top.run, top.began, top.told = element, 1, position, None
        top.total = crc32(struct.pack("<II", top.crc, top.size & 0xFFFFFFFF), top.total)
        top.words_before = top.words_before or top.words
        top.crc = top.size = 0
        top.words = False

    def _judge(self, top: _Open, position: int) -> None:
        settings, run = self._settings, top.run
        grade: Grade | None = None
        if not top.words:
            grade = Grade.SUSPECT if run >= settings.data_suspect else None
        elif run >= settings.words_suspect:
            grade = Grade.FALLBACK if run >= settings.words_fallback else Grade.SUSPECT
        if grade is None or (top.told is not None and grade <= top.told):
            return
        top.told = grade
        if self._found is None or grade > self._found.grade:
            self._found = ElementRun(grade, run, top.words, position, top.began)
