"""Text from tokens as they come.

Must not: look at what the text says; end-of-turn tokens and stop strings are the caller's.
Invariant: what was released so far, then `flush`, is exactly the decoding of all tokens at once; a piece that
was released never changes.
"""

from __future__ import annotations

import codecs

from engine.tokenizer import Tokenizer


class StreamDetokenizer:
    """Turns a stream of tokens into text; special tokens appear as their text.

    A character is released with the token that completes it; until then its bytes (3 at most) are held back.
    Bytes that are not UTF-8 become U+FFFD, one for each maximal part of a character (Unicode 3.9, as Python
    decodes).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # _pending[n]: bytes held back after n tokens
        self._pending: list[bytes] = [b""]

    def __len__(self) -> int:
        """Tokens fed."""
        return len(self._pending) - 1

    def feed(self, token: int) -> str:
        """Text that this token completes, possibly none. Raises ValueError for an id outside the
        vocabulary."""
        data = self._pending[-1] + self._tokenizer.token_bytes(token)
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._pending.append(data[used:])
        return text

    def truncate(self, count: int) -> None:
        """Goes back to the first `count` tokens. Raises ValueError if there are fewer."""
        if not 0 <= count <= len(self):
            raise ValueError(f"cannot go back to {count} tokens: there are {len(self)}")
        del self._pending[count + 1 :]

    def flush(self) -> str:
        """The tokens have ended: text of what is held back (U+FFFD). Feeding on is not meant to follow."""
        text = self._pending[-1].decode("utf-8", "replace")
        self._pending[-1] = b""
        return text
