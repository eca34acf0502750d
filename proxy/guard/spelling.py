"""What tokens say, as numbers that can be compared where their ids cannot: between servers that tell none.

Must not: depend on how a text was cut into tokens.
Invariant: two responses have the same numbers if and only if they say the same in the same channels.
"""

from __future__ import annotations

from detectors.parts import Part
from proxy.backends.base import Token

_BEYOND = 0x110000
"""The first number that is no character."""
_CHANNELS = {"text": _BEYOND, "thinking": _BEYOND + 1, "call": _BEYOND + 2}
_NAMED, _UNNAMED = _BEYOND + 3, _BEYOND + 4
"""Behind a call's name; and what stands for a call that begins with nothing, not even that."""


class Spelling:
    """Of one response, from some token on."""

    def __init__(self) -> None:
        self._where: tuple[str, int] | None = None

    def spell(self, token: Token) -> list[int]:
        """The characters of a token, with a mark where the channel changes."""
        parts = token.parts if token.parts is not None else (Part("text", token.text),)
        spelt: list[int] = []
        for part in parts:
            where = part.channel, part.index
            if not part.text and not part.name:
                if part.channel == "call" and where != self._where:
                    spelt.append(_UNNAMED)
                    self._where = where
                continue
            if where != self._where or part.name:
                spelt.append(_CHANNELS[part.channel])
                self._where = where
            if part.name:
                spelt += [*map(ord, part.name), _NAMED]
            spelt += map(ord, part.text)
        return spelt
