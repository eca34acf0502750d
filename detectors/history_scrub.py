"""Keeps one copy of a loop that was cut and comes back in the client's history, so that it does not begin anew.

Must not: touch a text that nothing says about that a loop was cut in it, or take out anything that is not said again
right there. Invariant: scrubbing a scrubbed text changes nothing.

A text is known to hold a cut loop by our own notice at its end, or by the digest of a loop that was cut in an earlier
response of the same conversation. A repetition is looked at from `LEAST` characters and two whole copies on; shorter
ones seed nothing. Loops that change a little each time have no exact copies and stay as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

LEAST = 64
LONGEST = 1 << 14
"""Characters of the longest unit that is looked for."""
MARKER = "[specguard]"
_TEXT = "its text"
_NOTICE_CHARS = 600
_TAIL = 32
_LAGS = 256

NOTICE = re.compile(
    r"\s*\[specguard\]\s+Stopped(?:\s+by\s+the\s+rule\s+`[^`]{1,128}`:\s+\w+:\s+"
    r"(?:a\s+unit\s+repeats|one\s+character\s+repeats|the\s+same\s+words\s+again\s+and\s+again)\."
    r"|:\s+the\s+model\s+repeats\s+(?:the\s+same\s+\d+\s+tokens\s+in\s+(?P<exact>\w+(?:\s+\w+)*),\s+\d+\s+times\s+by\s+now\."
    r"|itself\s+in\s+(?P<near>\w+(?:\s+\w+)*),\s+with\s+small\s+changes\.))\s*\Z"
)
"""What `policies.notice` writes of a loop; clients trim the end of a message and wrap its lines."""


@dataclass(frozen=True, slots=True)
class LoopDigest:
    """Of a unit, wherever in it the repetition began. chars: of its shortest form; sha256: of its least rotation."""

    chars: int
    sha256: str

    @classmethod
    def of(cls, unit: str) -> LoopDigest | None:
        """None for a unit that occurs in any text (lines, indents), or too long to be looked for."""
        if not 0 < len(unit) <= LONGEST:
            return None
        unit = unit[: (unit + unit).find(unit, 1)]
        if len(unit) < 4 or not any(char.isalpha() for char in unit):
            return None
        start = _least_rotation(unit)
        return cls(
            len(unit), hashlib.sha256((unit[start:] + unit[:start]).encode("utf-8", "surrogatepass")).hexdigest()
        )


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """removed: characters. notice_in: what part of the response a notice at the end speaks of, "" = there is none."""

    text: str
    removed: int = 0
    notice_in: str = ""


def scrub(text: str, known: Collection[LoopDigest] = (), *, ended: bool = False) -> Scrubbed:
    """One text of an assistant's earlier turn. ended: a loop was cut at its end, although no notice stands there."""
    is_marked = MARKER in text[-_NOTICE_CHARS:]
    if not (is_marked or known or ended):
        return Scrubbed(text)  # as nearly every text
    found = NOTICE.search(text, max(0, len(text) - _NOTICE_CHARS)) if is_marked else None
    head = (text[: found.start()] if found else text).rstrip()
    rest, before = text[len(head) :], None
    where = " ".join((found["exact"] or found["near"] or _TEXT).split()) if found else ""
    loops = sorted(known, key=lambda loop: -loop.chars)
    while head != before:
        before = head
        if (where == _TEXT or ended) and (cut := _cut_at_end(head)) is not None:
            head = head[:cut].rstrip()
        for loop in loops:
            while (span := _copies(head, loop)) is not None:
                head = head[: span[0]] + head[span[1] :]
    return Scrubbed(head + rest, len(text) - len(head) - len(rest), where)


def scrub_turn(text: str, thinking: str, known: Collection[LoopDigest] = ()) -> tuple[str, str, int]:
    """(text, thinking, characters that were taken out) of one turn; the notice stands in its text, also of thinking."""
    said = scrub(text, known)
    thought = scrub(thinking, known, ended=said.notice_in == "its thinking")
    return said.text, thought.text, said.removed + thought.removed


def _cut_at_end(text: str) -> int | None:
    """Where the first copy of what repeats at the end of a text ends; None where nothing does.

    Of several periods the one that covers most, then the shortest: a line of dashes inside of a unit is no unit.
    """
    tail, size = text[-_TAIL:], len(text)
    if size < LEAST:
        return None
    best, cut, at = 0, None, size - len(tail)
    for _ in range(_LAGS):
        at = text.rfind(tail, max(0, size - len(tail) - LONGEST), at + len(tail) - 1)
        if at < 0:
            break
        lag = size - len(tail) - at
        covered = _equal_back(text, size, lag) + lag
        coming = text[size - lag :]  # white space that would come next may have been trimmed away
        if covered + len(coming) - len(coming.lstrip()) >= max(2 * lag, LEAST) and covered > best:
            best, cut = covered, size - covered + lag
    return cut


def _copies(text: str, loop: LoopDigest) -> tuple[int, int] | None:
    """(start, end) of the whole copies beyond the first, of the first place where a known loop repeats.

    What is left of the last, unfinished copy stays: what the model said next goes on from there.
    """
    period, at = loop.chars, 0
    stride = (max(period, LEAST - period) + 1) // 2  # every run that counts holds one whole stride
    while at + stride + period <= len(text):
        if text[at : at + stride] != text[at + period : at + period + stride]:
            at += stride
            continue
        start, end = at - _equal_back(text, at + period, period), at + _equal_on(text, at, period) + period
        copies = (end - start) // period
        if copies >= 2 and end - start >= LEAST and LoopDigest.of(text[start : start + period]) == loop:
            return start + period, start + copies * period
        at = end - period + 1
    return None


def _equal_back(text: str, end: int, lag: int) -> int:
    """How many characters before `end` equal those `lag` before them."""
    return _gallop(end - lag, lambda a, b: text[end - b : end - a] == text[end - lag - b : end - lag - a])


def _equal_on(text: str, start: int, lag: int) -> int:
    """How many characters from `start` on equal those `lag` after them."""
    most = len(text) - lag - start
    return _gallop(most, lambda a, b: text[start + a : start + b] == text[start + lag + a : start + lag + b])


def _gallop(most: int, agrees: Callable[[int, int], bool]) -> int:
    """The largest n <= most for which [0, n) agrees; in time linear in the answer."""
    known, step, grows = 0, _TAIL, True
    while known < most and step:
        upto = min(known + step, most)
        if agrees(known, upto):
            known = upto
            step *= 2 if grows else 1
        else:
            step, grows = step // 2, False
    return known


def _least_rotation(text: str) -> int:
    """Start of the alphabetically least rotation, in linear time (Shiloach's two candidates)."""
    first, second, same, size = 0, 1, 0, len(text)
    while first < size and second < size and same < size:
        left, right = text[(first + same) % size], text[(second + same) % size]
        if left == right:
            same += 1
            continue
        if left > right:
            first += same + 1
        else:
            second += same + 1
        if first == second:
            second += 1
        same = 0
    return min(first, second)
