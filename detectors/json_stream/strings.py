"""What a string that is still open may become: a member of an enum, a key that is still free, not too long.

Must not: look at a string twice, or hold more of it than the longest option.
Invariant: an answer `False` is final for every continuation; answers are per byte, also inside an escape.

Texts are UTF-8 bytes, so that a byte in the middle of a character can already decide.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator

_CONTINUATIONS = bytes(range(0x80, 0xC0))


def characters(piece: bytes) -> int:
    """Code points that begin in a piece of UTF-8."""
    return len(piece) if piece.isascii() else len(piece.translate(None, _CONTINUATIONS))


def candidates(options: list[bytes], text: bytes) -> Iterator[bytes]:
    """The sorted `options` that begin with `text`."""
    for i in range(bisect_left(options, text), len(options)):
        if not options[i].startswith(text):
            return
        yield options[i]


def can_become(options: list[bytes], text: bytes, taken: Collection[str] = ()) -> bool:
    """Whether an option that is not taken begins with `text`."""
    i, n = bisect_left(options, text), len(options)
    while i < n and options[i].startswith(text):
        if not taken or options[i].decode("utf-8", "surrogatepass") not in taken:
            return True
        i += 1
    return False


def can_be(options: list[bytes], text: bytes, taken: Collection[str] = ()) -> bool:
    """Whether `text` is an option that is not taken."""
    i = bisect_left(options, text)
    return i < len(options) and options[i] == text and text.decode("utf-8", "surrogatepass") not in taken


def can_go_on(
    options: list[bytes], text: bytes, high: int, low_unit: int, high_unit: int, taken: Collection[str] = ()
) -> bool:
    r"""Whether the character after `text` may be one whose UTF-16 unit lies in low_unit..high_unit.

    high: the high surrogate that came before (then the unit is the second of the pair), 0 = none.
    """
    for option in candidates(options, text):
        if len(option) == len(text) or option.decode("utf-8", "surrogatepass") in taken:
            continue
        rest = option[len(text) : len(text) + 4]
        point = ord(rest.decode("utf-8", "ignore")[:1] or "\ufffd")
        if point > 0xFFFF:
            point -= 0x10000
            units = (0xD800 + (point >> 10), 0xDC00 + (point & 0x3FF))
            if high:
                if units[0] == high and low_unit <= units[1] <= high_unit:
                    return True
            elif low_unit <= units[0] <= high_unit:
                return True
        elif not high and low_unit <= point <= high_unit:
            return True
    return False
