"""Identifiers for training tasks: a few real words and many invented ones, split into training and held-out names.

Must not: use global randomness. Invariant: a held-out name never occurs in training (split by a hash of the name).
"""

from __future__ import annotations

import builtins
import random
import re
import zlib
from keyword import iskeyword

NOUNS = (
    "price cost weight score point level stock order item part unit step mark count rate share bonus tax fee goal "
    "page line word note plan task team game card coin seat room road ship train plane book shelf box bag cup "
    "plate tree leaf seed river stone cloud rain wind field farm horse sheep fish bird light wire cell motor "
    "wheel brake pump valve tank pipe gauge signal pulse frame layer pixel color shape angle width height depth "
    "length volume mass speed force power heat pressure reading sample batch record entry event ticket invoice "
    "ledger account budget salary client vendor parcel route stop station track session user group role badge "
    "token packet queue buffer cache"
).split()
ONSETS = "b d f g k l m n p r s t v z br dr gr kr pl st tr sk".split()
VOWELS = "a e i o u ai ou".split()
CODAS = ["", "", "l", "n", "r", "s", "t", "m", "k"]
LETTERS, FREQUENCIES = "etaoinshrdlcumwfgypbvk", (12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1)
LETTERED_SHARE = 0.3
"""Of the names of training tasks; held-out tasks have words and inventions only, none of which training has."""
_INVENTED = re.compile(f"(?:({'|'.join(ONSETS)})({'|'.join(VOWELS)})({'|'.join(CODAS)})){{2,3}}")


def is_held_out(name: str) -> bool:
    """One name in six is kept for held-out tasks."""
    return zlib.crc32(name.encode()) % 6 == 0


def invented(rng: random.Random) -> str:
    """A word of two or three syllables that no dictionary has."""
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((2, 2, 3))))


def lettered(rng: random.Random) -> str:
    """Letters as frequent as in English: begins with any letter and is cut into any tokens, unlike the two others."""
    return "".join(rng.choices(LETTERS, FREQUENCIES, k=rng.randint(3, 6)))


def readings(name: str) -> list[str]:
    """The stems that a name can have been made from: an `s` at its end may be part of the stem or not."""
    return [stem for stem in (name, name.removesuffix("s")) if stem in NOUNS or _INVENTED.fullmatch(stem)]


def pick(rng: random.Random, held_out: bool, taken: set[str], invented_share: float = 0.5) -> str:
    """A name of the asked split that is not in `taken`; it is added there."""
    while True:
        any_letters = not held_out and rng.random() < LETTERED_SHARE
        stem = lettered(rng) if any_letters else invented(rng) if rng.random() < invented_share else rng.choice(NOUNS)
        if is_held_out(stem) != held_out:
            continue
        name = stem + rng.choice(("", "", "", "s", "_" + stem[:1]))
        if held_out and not all(map(is_held_out, readings(name))):
            continue
        if any_letters and (is_held_out(name.removesuffix("s")) or is_held_out(name) or taken_by_python(name)):
            continue
        if name not in taken and name.isidentifier():
            taken.add(name)
            return name


def taken_by_python(name: str) -> bool:
    return iskeyword(name) or hasattr(builtins, name)
