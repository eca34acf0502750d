"""What the loop detectors need to know about the text of one token.

Must not: depend on the tokens around it.
Invariant: equal texts give equal facts, in every process (no salted hashes).
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

CACHED_TEXTS = 1 << 14
"""Shared by all streams; a vocabulary's frequent tokens fit."""
WORD, NUMBER = 1 << 18, 1 << 19
"""Bits of `TokenText.code`: the text has a letter; a digit."""

_BASE64 = re.compile(r"[A-Za-z0-9+/=]*\Z")
_DIGITS = re.compile(r"\d+")
_SYMBOL = re.compile(r"[^\w\s.,!?'\u2019-]|[\d_]|\n +\Z")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class TokenText:
    """code: names the text with its digit runs taken out, 20 bits with WORD and NUMBER among them.

    digits: nothing but digits; ends_in_digit. chars: length.
    base64: characters at its end that base64 may hold; breaks: there are others before; capital: one is a capital.
    marks: holds what a code fence is made of. single: the one character that it repeats, empty if there are several.
    symbol: holds a digit or a sign that code and data are full of, or indents a line.
    """

    code: int
    digits: bool
    ends_in_digit: bool
    chars: int
    base64: int
    breaks: bool
    capital: bool
    marks: bool
    single: str
    symbol: bool


@lru_cache(CACHED_TEXTS)
def read(text: str) -> TokenText:
    """The facts about a token's text."""
    found = _BASE64.search(text)
    base64 = found.group() if found is not None else ""
    plain = _DIGITS.sub("0", text)
    code = zlib.crc32(plain.encode("utf-8", "surrogatepass")) & (WORD - 1)
    return TokenText(
        code=code | (WORD if _LETTER.search(text) else 0) | (NUMBER if plain != text or "0" in plain else 0),
        digits=text.isdigit(),
        ends_in_digit=text[-1:].isdigit(),
        chars=len(text),
        base64=len(base64),
        breaks=len(base64) < len(text),
        capital=base64 != base64.lower(),
        marks="\n" in text or "`" in text,
        single=text[0] if text and text == text[0] * len(text) else "",
        symbol=_SYMBOL.search(text) is not None,
    )
