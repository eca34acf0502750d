"""Reads the body of one `qwen_xml` tool call into a name and an arguments object, typed by the tool's schema.

Must not: guess at broken markup, or decide whether the arguments are valid (that is `detectors.tool_schema`).
Invariant: a value is text unless its schema admits something else; then it is the JSON that stands there.

    <function=NAME>
    <parameter=KEY>
    VALUE, of any number of lines
    </parameter>
    </function>

Exactly one newline after `<parameter=KEY>` and one before `</parameter>` belong to the markup. A value ends
at the first `</parameter>` that stands at the start of a line, so that indented XML may be a value; a line
that opens another parameter or function inside a value means that its end is missing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from detectors.schema_types import admitted_types, property_schema

Reason = Literal[
    "missing_function", "malformed_markup", "text_outside", "duplicate_parameter", "nested_call", "bad_key"
]

_FUNCTION = re.compile(r"\s*<function=([^<>\n]*)>")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]*)>")
_VALUE_END = re.compile(r"\n</parameter>(?=\s|<|\Z)")
_FUNCTION_END = re.compile(r"\s*</function>\s*\Z")
_NESTED = re.compile(r"<tool_call>\s*<(?:function=|tool_call>)")
_UNCLOSED = re.compile(r"^<(?:parameter|function)=[^<>\n]*>\s*$", re.MULTILINE)
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_MAX_DEPTH = 128


class MarkupError(ValueError):
    """The body is no call. reason: low-cardinality; offset: character of the body; key: where known."""

    def __init__(self, reason: Reason, offset: int, key: str = "") -> None:
        super().__init__(f"{reason.replace('_', ' ')} at character {offset}")
        self.reason, self.offset, self.key = reason, offset, key


@dataclass(frozen=True, slots=True)
class Call:
    """arguments: JSON values only; integers and floats are finite."""

    name: str
    arguments: dict[str, Any]


def read_call(body: str, schema_of: Callable[[str], Mapping[str, Any] | None]) -> Call:
    """Raises MarkupError. `schema_of(name)` gives a tool's parameters, None for an unknown one (all text)."""
    name, values = read_markup(body)
    schema = schema_of(name) or {}
    return Call(name, {key: typed(text, property_schema(schema, key), schema) for key, text in values.items()})


def read_markup(body: str) -> tuple[str, dict[str, str]]:
    """The function's name and the raw text of its parameters, in their order."""
    if nested := _NESTED.search(body):
        raise MarkupError("nested_call", nested.start())
    function = _FUNCTION.match(body)
    if function is None or not function[1].strip():
        raise MarkupError("missing_function", 0)
    values: dict[str, str] = {}
    at = function.end()
    while parameter := _PARAMETER.match(body, at):
        key = parameter[1]
        if not key or key != key.strip() or "=" in key:
            raise MarkupError("bad_key", parameter.start(1))
        if key in values:
            raise MarkupError("duplicate_parameter", parameter.start(1), key)
        values[key], at = _read_value(body, parameter.end(), key)
    if _FUNCTION_END.match(body, at) is None:
        outside = "</function>" in body[at:]
        raise MarkupError("text_outside" if outside else "malformed_markup", at)
    return function[1].strip(), values


def _read_value(body: str, start: int, key: str) -> tuple[str, int]:
    """A value and where the body goes on."""
    if body.startswith("\n", start):
        end = _VALUE_END.search(body, start)  # from the newline itself: an empty value may share it
        if end is None:
            raise MarkupError("malformed_markup", start, key)
        value = body[start + 1 : max(end.start(), start + 1)]
        if unclosed := _UNCLOSED.search(value):
            raise MarkupError("malformed_markup", start + 1 + unclosed.start(), key)
        return value, end.end()
    close = body.find("</parameter>", start)  # all on one line: tolerated, some models write it
    if close < 0 or "\n" in body[start:close]:
        raise MarkupError("malformed_markup", start, key)
    return body[start:close], close + len("</parameter>")


def typed(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value that `text` stands for under a property's schema (None = undeclared, always text).

    Text that is no JSON of an admitted type stays text, so that the schema can say what is wrong with it.
    """
    admitted = frozenset({"string"}) if schema is None else admitted_types(schema, root)
    if admitted == {"string"}:
        return text
    value = _parse(text.strip())
    if isinstance(value, str):
        # Quotes around a value that may be text belong to the text.
        return text if "string" in admitted else value
    if value is _NOTHING or ("string" in admitted and not _is_of(value, admitted)):
        return text
    return value


_NOTHING = object()


def _parse(text: str) -> Any:
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]  # chat templates show past booleans in Python's spelling, so models copy it
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
        if _depth(value) > _MAX_DEPTH:
            return _NOTHING
        json.dumps(value, ensure_ascii=False).encode()  # refuses lone surrogates, which clients cannot read
    except (ValueError, RecursionError):
        return _NOTHING
    return value


def _is_of(value: Any, admitted: frozenset[str]) -> bool:
    match value:
        case bool():
            return "boolean" in admitted
        case int():
            return bool(admitted & {"integer", "number"})
        case float():
            return "number" in admitted or ("integer" in admitted and value.is_integer())
        case None:
            return "null" in admitted
        case list():
            return "array" in admitted
        case _:
            return "object" in admitted


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("out of range")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key occurs twice")
    return members
