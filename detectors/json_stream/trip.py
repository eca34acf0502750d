"""What a trip says, and which of our own classes may trip.

Must not: hold a value of the model; paths and keywords are all that is told.
Invariant: `Rules()` is what a guarded tool call needs; with `SPECIFICATION` only RFC 8259 and the schema speak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Exactness = Literal["exact", "late", "opaque"]
"""exact: a trip comes at the earliest byte after which no valid value exists (a number's bytes count as one step,
decided at the byte that ends it). late: never too early, perhaps too late. opaque: only at the end."""

TripClass = Literal[
    "syntax",
    "schema",
    "duplicate_key",
    "lone_surrogate",
    "whitespace_run",
    "not_an_object",
    "limit_size",
    "limit_depth",
    "limit_number",
    "limit_keys",
    "truncated",
]


@dataclass(frozen=True, slots=True)
class Trip:
    """Why no valid value can follow.

    keyword: the schema's, empty outside class `schema`. instance_path, schema_path: JSON pointers.
    offset: index of the first byte that was one too many; the length of the input where the end came too early.
    """

    kind: TripClass
    keyword: str
    instance_path: str
    schema_path: str
    offset: int
    exactness: Exactness


@dataclass(frozen=True, slots=True)
class Rules:
    """Our own classes; None or False switches one off.

    duplicate_keys: off means that the last of two wins, so nothing inside an object is decided before its end:
    then only syntax and the final verdict speak. lone_surrogates: off reads each as U+FFFD in the final verdict.
    whitespace_run: bytes of structural white space in a row, plus 8 for every open container.
    depth: open containers (more than about 900 is not safe for Python's own parser). size: bytes in all.
    number: bytes of one number; also refuses numbers beyond the range of a double.
    keys: members of one object; a single key may have at most `size` bytes.
    root_object: arguments are an object, whatever the schema says. empty_is_object: no bytes at all mean {}.
    """

    duplicate_keys: bool = True
    lone_surrogates: bool = True
    whitespace_run: int | None = 128
    depth: int = 128
    size: int | None = 1 << 20
    number: int | None = 400
    keys: int | None = 10_000
    root_object: bool = True
    empty_is_object: bool = True


SPECIFICATION = Rules(
    lone_surrogates=False,
    whitespace_run=None,
    depth=800,
    size=None,
    keys=None,
    root_object=False,
    empty_is_object=False,
)
