"""Cuts text into tokens as a model would have said it, without any model's vocabulary; or with the embedded one.

Must not: need a tokenizer from elsewhere, or the engine.
Invariant: the texts of the tokens joined are the text; equal texts have equal ids.

`pieces` follows Qwen2's split (single digits, a blank goes with the word after it), words cut after six letters: 3.4 to
4 bytes per token on prose and source code, where that vocabulary has 3.9. A trained merge table cuts inside of words by
frequency instead, which changes how long a unit is, not whether it repeats.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path

Token = tuple[int, str]
Cut = Callable[[str], list[Token]]

EMBEDDED = Path(__file__).parents[3] / "engine" / "embedded" / "tokenizer.json"
_PIECES = re.compile(
    r"(?i:'(?:s|t|re|ve|m|ll|d))|(?:[^\w\r\n]|_)?[^\W\d_]{1,6}|\d| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def pieces(text: str) -> list[Token]:
    """By Qwen2's split; ids below 2^18."""
    return [(zlib.crc32(piece.encode("utf-8", "replace")) & 0x3FFFF, piece) for piece in _PIECES.findall(text)]


def embedded() -> Cut:
    """By the embedded model's tokenizer. Raises ImportError without the `tokenizers` package."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(EMBEDDED))

    def cut(text: str) -> list[Token]:
        """A character of several tokens counts with the first of them."""
        encoded = tokenizer.encode(text, add_special_tokens=False)
        tokens, end = [], 0
        for token, (start, stop) in zip(encoded.ids, encoded.offsets, strict=True):
            start = max(start, end)
            tokens.append((token, text[start:stop] if stop > start else ""))
            end = max(end, stop)
        return tokens

    return cut
