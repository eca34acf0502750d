"""Events of containers: counting, uniqueness, settling early, unknown parts."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.trip import SPECIFICATION

UNKNOWN = {"unevaluatedItems": False}


def tripped_at(schema: Any, text: str) -> int | None:
    stream = JsonStream(compile_schema(schema), SPECIFICATION)
    trip = stream.feed(text.encode())
    return None if trip is None else trip.offset


@pytest.mark.parametrize(
    ("schema", "text", "offset"),
    [
        ({"contains": {"const": 1}, "minContains": 2}, "[1, 2, 1]", None),
        ({"contains": {"const": 1}, "minContains": 2}, "[1, 2]", 5),
        ({"contains": {"const": 1}, "minContains": 0}, "[]", None),
        ({"contains": {"const": 1}, "maxContains": 1}, "[1, 1]", 5),
        ({"contains": UNKNOWN}, "[[1], 2]", None),
        ({"contains": UNKNOWN}, "[]", 1),
        ({"uniqueItems": True}, '[{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}', 40),
        ({"uniqueItems": True}, "[1, true, 0, false, null]", None),
        ({"uniqueItems": True}, "[12, 1, 12]", 10),
        ({"uniqueItems": True}, '["]", ",", "]"', 13),
        ({"not": UNKNOWN}, "[[1]]", None),
        ({"not": {"items": UNKNOWN}}, "[[1]]", None),
        ({"not": {"properties": {"a": UNKNOWN}}}, '{"a": [1]}', None),
        ({"not": {"propertyNames": {"$dynamicRef": "#"}}}, '{"a": [1]}', None),
        ({"oneOf": [UNKNOWN, {"type": "array"}]}, "[1, 2]", None),
        ({"oneOf": [{"type": "array"}, {"items": False}]}, "[]", 1),
        ({"not": {"properties": {"a": {"type": "null"}}, "required": ["a"]}}, '{"a": null, "b"', 9),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"a": 1, "b": 2, "c"', 15),
        ({"if": {"required": ["a"]}, "else": False}, '{"b": 1}', 7),
        ({"if": {"type": "string"}, "then": False}, '"', 0),
        ({"maxProperties": 0}, '{"a": 1}', 1),
        ({"maxItems": 0}, "[[]]", 1),
        ({"not": {"maxItems": 0}}, "[1]", None),
        ({"not": {"maxItems": 0}}, "[]", 1),
        ({"propertyNames": False}, '{"', 1),
        ({"propertyNames": UNKNOWN}, '{"a": 1}', None),
        ({"items": False}, "[1", 1),
    ],
)
def test_events(schema: Any, text: str, offset: int | None) -> None:
    assert tripped_at(schema, text) == offset


def test_unknown_parts_leave_the_verdict_to_the_reference() -> None:
    stream = JsonStream(compile_schema({"contains": UNKNOWN}), SPECIFICATION)
    assert stream.feed(b"[[1]]") is None
    assert stream.finish().trip is not None
