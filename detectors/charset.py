"""Characters that do not belong: U+FFFD, and letters of scripts that the prompt does not have.

Must not: convict: an answer may be a translation, so everything here is SUSPECT.
Invariant: what is found, and at which token, does not depend on how the text was cut, tokens apart; memory is bounded
by the window.

Python's standard library does not know scripts. The first word of a letter's Unicode name is one, near enough: LATIN,
CYRILLIC, CJK; Japanese and Chinese writing counts as one, since Japanese mixes them.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from detectors.finding import Finding, Grade

REPLACEMENT = "\ufffd"
_ONE = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "IDEOGRAPHIC": "CJK", "BOPOMOFO": "CJK"}
_FORMS = ("FULLWIDTH", "HALFWIDTH", "MODIFIER", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER", "MICRO")
"""First words of names that say how a letter is drawn; most of these are Latin."""

MOST_WINDOW = 1 << 12
"""Characters: half a MiB of a stream."""


@dataclass(frozen=True, slots=True)
class CharsetSettings:
    """Letters of scripts that the prompt lacks."""

    window: int = 512
    """Characters looked at."""

    letters: int = 64
    """So many in the window: an answer that goes over into another language."""

    scripts: int = 3
    each: int = 2
    """So many such scripts at once in the window, `each` letters or more of each: no language at all."""

    def __post_init__(self) -> None:
        if min(self.window, self.letters, self.scripts, self.each) < 1:
            raise ValueError("window, letters, scripts, each: must be 1 or more")
        if self.window > MOST_WINDOW:
            raise ValueError(f"window: must be {MOST_WINDOW} characters or less, they are kept; not {self.window}")
        if max(self.letters, self.scripts * self.each) > self.window:
            raise ValueError(f"letters, scripts x each: not more than there are in the window, {self.window}")


@lru_cache(maxsize=4096)
def script_of(character: str) -> str:
    """`LATIN`, `CJK` ...; empty for what is no letter, or a sign that only draws one."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").partition(" ")[0]
    return "" if first in _FORMS else _ONE.get(first, first)


def scripts_of(texts: Iterable[str]) -> frozenset[str]:
    """Scripts of a prompt, with U+FFFD as one of its own. Latin is always there: program text is."""
    characters: set[str] = set()
    for text in texts:
        if not text.isascii():
            characters.update(text)
    scripts = {script_of(character) for character in characters} - {""}
    return frozenset(scripts | {"LATIN"} | ({REPLACEMENT} & characters))


class CharsetDetector:
    """Text and thinking of one response. known: `scripts_of` the prompt."""

    def __init__(self, known: frozenset[str], settings: CharsetSettings = CharsetSettings()) -> None:
        self._known, self._settings = known, settings
        self._count = 0
        self._strange: deque[tuple[int, int, str]] = deque()  # character, token, script
        self._counts: dict[str, int] = {}
        self._told: set[str] = set()

    @property
    def remembered(self) -> int:
        """Letters of strange scripts in the window."""
        return len(self._strange)

    def feed(self, position: int, text: str, channel: str) -> Finding | None:
        """Takes text of a token; answers once per kind, with the first if a token brings several."""
        if text.isascii():
            self._count += len(text)
            return None
        return next(iter(self.feed_all(position, text, channel)), None)

    def feed_all(self, position: int, text: str, channel: str) -> list[Finding]:
        """The same, with all that a token brings."""
        found: list[Finding | None] = []
        for character in text:
            self._count += 1
            if character == REPLACEMENT:
                if REPLACEMENT not in self._known:
                    found.append(self._tell("U+FFFD", position, position, channel, {}))
                continue
            script = script_of(character)
            if script and script not in self._known:
                found.append(self._add(position, script, channel))
        return [each for each in found if each is not None]

    def _add(self, position: int, script: str, channel: str) -> Finding | None:
        self._strange.append((self._count, position, script))
        counts, settings = self._counts, self._settings
        counts[script] = counts.get(script, 0) + 1
        while self._strange[0][0] <= self._count - settings.window:
            _, _, old = self._strange.popleft()
            counts[old] -= 1
            if not counts[old]:
                del counts[old]
        began = self._strange[0][1]
        evidence = {"scripts": dict(sorted(counts.items())), "window": settings.window}
        if sum(count >= settings.each for count in counts.values()) >= settings.scripts:
            return self._tell("several scripts that the prompt lacks", position, began, channel, evidence)
        if len(self._strange) >= settings.letters:
            return self._tell("a script that the prompt lacks", position, began, channel, evidence)
        return None

    def _tell(self, what: str, position: int, began: int, channel: str, evidence: dict[str, object]) -> Finding | None:
        if what in self._told:
            return None
        self._told.add(what)
        return Finding("text.charset", Grade.SUSPECT, channel, position, began, f"suspect: {what}", evidence)
