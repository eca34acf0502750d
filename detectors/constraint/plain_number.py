"""Whether a number that is being written can still become a valid one in plain decimal notation.

Must not: judge a number itself (the JSON stream does, with candidates that are tried on a copy of it).
Invariant: True means that a completion was found.

The stream judges numbers when they end, since `250` may become `250e-1`. For a model that is kept from wrong tokens
that is too late: behind `401` no end is allowed where at most 40 is. So there are no exponents here, and every digit
must leave a way to end: as it stands, with zeros or nines behind it, as one of the numbers that the schema names or one
beside them, as a multiple that is demanded, or with a short fraction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import Any

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import CompiledSchema

_MOST_DIGITS = 20
_NAMED = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "const")
_MOST_NAMED = 256
_FRACTIONS = ("5", "1", "9", "25", "01", "99")


def can_end_plainly(stream: JsonStream) -> bool:
    """True where no number is open."""
    number = stream.number.decode("ascii")
    if not number:
        return True
    if "e" in number or "E" in number or len(number) > _MOST_DIGITS:
        return False
    return any(_ends(stream, rest) for rest in _rests(number, stream.compiled))


def _ends(stream: JsonStream, rest: str) -> bool:
    return stream.clone().feed(rest.encode() + b" ") is None


def _rests(number: str, compiled: CompiledSchema) -> Iterator[str]:
    """What may be written behind it, the likeliest first."""
    yield ""
    named, multiples = _numbers_of(compiled)
    for text in named:
        if text.startswith(number):
            yield text[len(number) :]
    room = _MOST_DIGITS - len(number)
    if "." in number:
        yield from _FRACTIONS
        return
    if number not in ("0", "-0"):
        for count in range(1, min(room, 12)):
            yield "0" * count
            yield "9" * count
            yield from _multiples(number, count, multiples)
    if number == "-":
        yield from ("1", "0", "0.5")
    yield from (f".{digits}" for digits in chain(("0",), _FRACTIONS))


def _multiples(number: str, count: int, multiples: tuple[int, ...]) -> Iterator[str]:
    """The first multiple among the numbers with so many more digits."""
    if not number.lstrip("-"):
        return
    low = abs(int(number)) * 10**count
    for step in multiples:
        text = str(-(-low // step) * step)
        if text.startswith(number.lstrip("-")) and len(text) == len(number.lstrip("-")) + count:
            yield text[-count:]


@lru_cache(256)
def _numbers_of(compiled: CompiledSchema) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Numbers that the schema names and those beside them, as text; whole numbers of which multiples are demanded."""
    named: dict[str, None] = {}
    multiples: set[int] = set()
    waiting: list[Any] = [compiled.schema]
    while waiting and len(named) < _MOST_NAMED:
        schema = waiting.pop()
        if isinstance(schema, list):
            waiting += schema
        if not isinstance(schema, dict):
            continue
        enum = schema.get("enum")
        for value in (*(schema.get(key) for key in _NAMED), *(enum if isinstance(enum, list) else ())):
            if isinstance(value, int | float) and not isinstance(value, bool):
                named |= dict.fromkeys(text for text in map(_plain, (value, value + 1, value - 1)) if text)
        step = schema.get("multipleOf")
        if isinstance(step, int) and not isinstance(step, bool) and step > 0:
            multiples.add(step)
        waiting += schema.values()
    return tuple(named), tuple(sorted(multiples))


def _plain(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    text = str(int(value)) if isinstance(value, int) or value.is_integer() else format(Decimal(repr(value)), "f")
    return text if len(text) <= _MOST_DIGITS else ""
