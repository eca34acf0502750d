"""An independent oracle: the beginning of a JSON text becomes a schema of all its completions.

Must not: use anything of the code under test.
Invariant: every completion of the text satisfies the schema (numbers that are still open stand for any number), so
if it cannot be satisfied together with the tool's schema, the beginning is dead.

jsonschema-rs decides satisfiability (its canonical API answers yes, no or unknown).
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_WORD = re.compile(r"[^\s,\]}]+")


def is_dead(schema: Any, beginning: str) -> bool | None:
    """Whether no valid value begins so; None = undecided."""
    completions, _, _ = _value(beginning, 0)
    try:
        both = jsonschema_rs.canonicalize(schema).intersect(jsonschema_rs.canonicalize(completions))
        answer = both.satisfiability()
    except (ValueError, jsonschema_rs.canonical.CanonicalizationError):
        return None
    return {"NO": True, "YES": False}.get(str(answer).rpartition(".")[2].upper())


def _value(text: str, at: int) -> tuple[Any, int, bool]:
    """(schema of the completions, where the text goes on, whether the value is complete)."""
    at = _skip(text, at)
    if at == len(text):
        return True, at, False
    if text[at] == '"':
        match = _STRING.match(text, at)
        if match is not None:
            return {"const": json.loads(match[0])}, match.end(), True
        return {"type": "string", "pattern": _beginning(text[at + 1 :])}, len(text), False
    if text[at] == "{":
        return _object(text, at + 1)
    if text[at] == "[":
        return _array(text, at + 1)
    match = _WORD.match(text, at)
    assert match is not None
    if text[at] in "tfn":
        word = next(word for word in ("true", "false", "null") if word.startswith(match[0]))
        return {"const": json.loads(word)}, match.end(), match[0] == word
    if match.end() == len(text):
        return {"type": "number"}, match.end(), False
    return {"const": json.loads(match[0])}, match.end(), True


def _array(text: str, at: int) -> tuple[Any, int, bool]:
    items: list[Any] = []
    schema: dict[str, Any] = {"type": "array", "prefixItems": items}
    at = _skip(text, at)
    while at < len(text) and text[at] != "]":
        item, at, complete = _value(text, at)
        items.append(item)
        at = _skip(text, at)
        if complete and at < len(text) and text[at] == ",":
            at = _skip(text, at + 1)
            if at == len(text):
                items.append(True)
    schema["minItems"] = len(items)
    if at == len(text):
        return schema, at, False
    return {**schema, "maxItems": len(items)}, at + 1, True


def _object(text: str, at: int) -> tuple[Any, int, bool]:
    properties: dict[str, Any] = {}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    at = _skip(text, at)
    after_comma = False
    while at < len(text) and text[at] != "}":
        match = _STRING.match(text, at)
        if match is None:
            return _with_another_key(schema, _beginning(text[at + 1 :])), len(text), False
        key = json.loads(match[0])
        properties[key] = True
        at = _skip(text, match.end())
        if at < len(text):
            properties[key], at, _ = _value(text, at + 1)
        at = _skip(text, at)
        after_comma = at < len(text) and text[at] == ","
        if after_comma:
            at = _skip(text, at + 1)
    schema["required"] = list(properties)
    if at == len(text):
        return (_with_another_key(schema, "") if after_comma else schema), at, False
    return {**schema, "additionalProperties": False}, at + 1, True


def _with_another_key(schema: dict[str, Any], pattern: str) -> dict[str, Any]:
    """And a key that is not there yet, which matches."""
    taken = list(schema["properties"])
    fits: dict[str, Any] = {"pattern": pattern} if pattern else {}
    if taken:
        fits["not"] = {"enum": taken}
    return {**schema, "required": taken, "minProperties": len(taken) + 1, "not": {"propertyNames": {"not": fits}}}


def _beginning(raw: str) -> str:
    """A pattern for the strings that begin with what is written; half an escape is left out."""
    raw = re.sub(r"\\(?:u[0-9a-fA-F]{0,3})?\Z", "", raw) if not re.search(r"(?:^|[^\\])(?:\\\\)+\Z", raw) else raw
    text = json.loads(f'"{raw}"')
    return "^" + "".join(c if c.isalnum() and c.isascii() else f"\\u{ord(c):04x}" for c in text)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
