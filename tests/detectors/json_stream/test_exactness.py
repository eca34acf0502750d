"""Which schemas are said to be checked to the byte."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.json_stream.exactness import classify

STRING, NULL = {"type": "string"}, {"type": "null"}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"type": "object", "properties": {"a": STRING}, "required": ["a"], "additionalProperties": False},
        {"properties": {"a": {"anyOf": [STRING, NULL], "description": "x"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": STRING}},
        {"enum": [{"a": 1}, 2]},
        {"items": {"minimum": 1, "maximum": 1}},
        {"type": "object", "anyOf": [{"type": "object", "required": ["a"]}]},
    ],
)
def test_exact(schema: Any) -> None:
    assert classify(schema, "2020-12") == "exact"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": "^a"}}},
        {"oneOf": [STRING, NULL]},
        {"not": STRING},
        {"allOf": [STRING, NULL]},
        {"$ref": "#/$defs/a", "type": "object", "$defs": {"a": NULL}},
        {"minLength": 3, "maxLength": 2},
        {"required": ["a"], "properties": {"b": {}}, "additionalProperties": False},
        {"required": ["a"], "properties": {"a": False}},
        {"unevaluatedProperties": False},
        {"items": {"uniqueItems": True}},
        {"enum": [[1]], "type": "array"},
    ],
)
def test_late(schema: Any) -> None:
    assert classify(schema, "2020-12") == "late"


def test_a_draft_that_is_not_understood_is_opaque() -> None:
    assert classify({}, "") == "opaque"
