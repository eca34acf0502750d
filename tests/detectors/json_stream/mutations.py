"""Valid calls made invalid in ways whose first bad byte is known without a validator.

Must not: use anything of the code under test.
Invariant: `offset` is the earliest byte after which no valid call exists; mutations whose byte is not certain
(values under anyOf or $ref, strings whose schema says more than `string`) are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SCALAR = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s,\]}]+')
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[,\[\]{}]')
WRONG = {"string": "7", "integer": '"7"', "number": "[7]", "boolean": '"true"', "array": "{}", "object": "[]"}


@dataclass(frozen=True, slots=True)
class Mutation:
    """kind: what was done. data: the invalid call. offset: its first bad byte."""

    kind: str
    data: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class Span:
    """A value in a text, with the schema that it stands under (None = not certain)."""

    start: int
    end: int
    value: Any
    schema: Any


def spans(text: str, schema: Any) -> list[Span]:
    """All values of a JSON text, outermost first."""
    found: list[Span] = []
    _read(text, _skip(text, 0), schema, found)
    return sorted(found, key=lambda span: span.start)


def _read(text: str, at: int, schema: Any, found: list[Span]) -> int:
    schema = schema if isinstance(schema, dict) and not {"anyOf", "$ref"} & schema.keys() else None
    start = at
    if text[at] not in "{[":
        match = _SCALAR.match(text, at)
        assert match is not None
        found.append(Span(start, match.end(), json.loads(match[0]), schema))
        return match.end()
    closer = "}" if text[at] == "{" else "]"
    at = _skip(text, at + 1)
    while text[at] != closer:
        inner = (schema or {}).get("items")
        if closer == "}":
            match = _SCALAR.match(text, at)
            assert match is not None
            inner = (schema or {}).get("properties", {}).get(json.loads(match[0]))
            at = _skip(text, _skip(text, match.end()) + 1)
        at = _skip(text, _read(text, at, inner, found))
        if text[at] == ",":
            at = _skip(text, at + 1)
    found.append(Span(start, at + 1, json.loads(text[start : at + 1]), schema))
    return at + 1


def _skip(text: str, at: int) -> int:
    while text[at].isspace():
        at += 1
    return at


def mutations(text: str, schema: Any) -> Iterator[Mutation]:
    """Every mutation of a valid call."""
    for span in spans(text, schema):
        yield from _of_value(text, span)
    yield from _of_structure(text)


def _of_value(text: str, span: Span) -> Iterator[Mutation]:
    if span.schema is None:
        return
    declared = span.schema.get("type")
    if isinstance(declared, str):
        yield _made("type", text, span.start, span.end, WRONG[declared], 0)
    if "enum" in span.schema and isinstance(span.value, str):
        yield _made("enum", text, span.start, span.end, json.dumps(span.value[:2])[:-1] + "~", None)
    elif declared == "string" and not {"maxLength", "const"} & span.schema.keys():
        yield _made("escape", text, span.start + 1, span.start + 1, "\\q", 1)
        for bad in (b"\xff", b"\xc0", b"\xe2\x28"):
            data = text[: span.start + 1].encode() + bad + text[span.start + 1 :].encode()
            yield Mutation("utf-8", data, len(text[: span.start + 1].encode()) + len(bad) - 1)
    if declared == "object" and span.schema.get("additionalProperties") is False and span.schema["properties"]:
        more = "," if span.value else ""
        yield _made("key", text, span.start + 1, span.start + 1, f'"~":1{more}', 1)
        for key in span.schema["properties"]:
            if not any(other != key and other.startswith(key) for other in span.schema["properties"]):
                wrong = json.dumps(key)[:-1] + "~"
                yield _made("key", text, span.start + 1, span.start + 1, f'{wrong}":1{more}', len(wrong) - 1)


def _of_structure(text: str) -> Iterator[Mutation]:
    for match in _STRUCTURE.finditer(text):
        at = match.start()
        if match[0] == ",":
            following = _skip(text, at + 1)
            yield _made("comma", text, at, at + 1, "", following - at - 1)
            yield _made("comma", text, following, following, ",", 0)
        elif match[0] in "}]":
            yield _made("closer", text, at, at + 1, "]" if match[0] == "}" else "}", 0)


def _made(kind: str, text: str, start: int, end: int, by: str, bad: int | None) -> Mutation:
    """`bad`: index of the first bad character, counted from `start`; None = the last of `by`."""
    changed = text[:start] + by + text[end:]
    index = start + (len(by) - 1 if bad is None else bad)
    return Mutation(kind, changed.encode(), len(changed[:index].encode()))
