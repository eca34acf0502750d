"""Loops made by rule: a text, then a unit again and again, in the ways models are known to get stuck.

Must not: use real text, or make loops that a detector is known to find.
Invariant: (kind, period, seed) decides every token; the loop begins at LEAD, and lasts LOOP_TOKENS or a little more.

The words are drawn with the frequencies of a language (Zipf), so a unit repeats words within itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from proxy.bench.detectors.tokens import Token

LEAD, LOOP_TOKENS = 300, 2048
VARIANTS = 6
"""Of a paraphrase set."""
CHANGE_EVERY = 20
"""Tokens between two insertions or deletions, at least."""

_SYLLABLES = "ba co di fe gu ha jo ki lu ma no pe ra si to vu we xa yo zi".split()
_WORDS = [f" {a}{b}{c}" for a in _SYLLABLES for b in _SYLLABLES for c in ("", "n", "r", "st", "l")]
_DIGITS = 10  # ids 0 to 9 are the digits
_MARKS = (".", ",", "\n")
_COMMA = _DIGITS + 1, ","
_FIRST_WORD = _DIGITS + len(_MARKS)


def stream(kind: str, period: int, seed: int) -> list[Token]:
    """LEAD tokens of text, then the loop."""
    draw = random.Random(f"{kind} {period} {seed}")
    tokens = _text(draw, LEAD)
    for part in KINDS[kind](draw, period):
        tokens += part
        if len(tokens) >= LEAD + LOOP_TOKENS:
            return tokens
    raise AssertionError("loops do not end")


def holds(kind: str, period: int) -> bool:
    """Whether LOOP_TOKENS have room for four copies of everything: what was said less often is no loop yet."""
    return period * {"paraphrase": VARIANTS, "alternation": 2}.get(kind, 1) * 4 <= LOOP_TOKENS


def _text(draw: random.Random, count: int) -> list[Token]:
    tokens: list[Token] = []
    for i in range(count):
        if i and i % 12 == 11:
            mark = draw.choice((0, 0, 1, 1, 2))
            tokens.append((_DIGITS + mark, _MARKS[mark]))
        else:
            tokens.append(_word(draw))
    return tokens


def _word(draw: random.Random) -> Token:
    rank = int(len(_WORDS) ** draw.random()) - 1
    return _FIRST_WORD + rank, _WORDS[rank]


def _number(value: int) -> list[Token]:
    return [(int(digit), digit) for digit in str(value)]


def _exact(draw: random.Random, period: int) -> Iterator[list[Token]]:
    unit = _text(draw, period)
    while True:
        yield unit


def _counter(draw: random.Random, period: int) -> Iterator[list[Token]]:
    """A number that rises by one from copy to copy, and in longer units at times a second one without a rule."""
    unit = _text(draw, period)
    at, second = draw.randrange(period), period > 4 and draw.random() < 0.3
    number = draw.choice((1, 2, 46, 998))
    while True:
        tail = [_COMMA, *_number(draw.randrange(1000)), _COMMA] if second else []
        yield [*unit[:at], *_number(number), *unit[at:], *tail]
        number += 1


def _substitution(share: float) -> Callable[[random.Random, int], Iterator[list[Token]]]:
    def made(draw: random.Random, period: int) -> Iterator[list[Token]]:
        unit = _text(draw, period)
        while True:
            yield [_word(draw) if draw.random() < share else token for token in unit]

    return made


def _insert_delete(draw: random.Random, period: int) -> Iterator[list[Token]]:
    """One token more or less in every second copy, but not more often than every 20 tokens."""
    unit = _text(draw, period)
    while True:
        for _ in range(max(1, CHANGE_EVERY // period)):
            yield unit
        at = draw.randrange(period)
        yield [*unit[:at], _word(draw), *unit[at:]] if draw.random() < 0.5 else unit[:at] + unit[at + 1 :]


def _paraphrase(draw: random.Random, period: int) -> Iterator[list[Token]]:
    """VARIANTS ways to say it, three words in ten their own, in any order."""
    unit = _text(draw, period)
    variants = [[_word(draw) if draw.random() < 0.3 else token for token in unit] for _ in range(VARIANTS)]
    while True:
        yield draw.choice(variants)


def _alternation(draw: random.Random, period: int) -> Iterator[list[Token]]:
    """Two units in random order."""
    units = _text(draw, period), _text(draw, period)
    while True:
        yield draw.choice(units)


KINDS: dict[str, Callable[[random.Random, int], Iterator[list[Token]]]] = {
    "exact": _exact,
    "counter": _counter,
    "substitution 1 %": _substitution(0.01),
    "substitution 5 %": _substitution(0.05),
    "insert and delete": _insert_delete,
    "paraphrase": _paraphrase,
    "alternation": _alternation,
}
