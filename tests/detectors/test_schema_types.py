"""Admitted types: keywords that restrict them, references, and the properties of composed schemas."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.schema_types import ALL_TYPES, admitted_types, is_bound, property_schema

ROOT: dict[str, Any] = {"$defs": {"id": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}, "a/b": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({}, ALL_TYPES),
        (True, ALL_TYPES),
        ({"type": "string"}, {"string"}),
        ({"type": "number"}, {"number", "integer"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"enum": ["a", None]}, {"string", "null"}),
        ({"const": 1.5}, {"number", "integer"}),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, {"string", "array"}),
        ({"oneOf": [{"type": "string"}, {}]}, ALL_TYPES),
        ({"allOf": [{"type": ["string", "null"]}, {"type": ["null", "array"]}]}, {"null"}),
        ({"$ref": "#/$defs/id"}, {"integer"}),
        ({"$ref": "#/$defs/a~1b"}, {"null"}),
        ({"$ref": "#/$defs/loop"}, ALL_TYPES),
        ({"$ref": "https://example.org/x"}, ALL_TYPES),
        ({"$ref": "#/$defs/none"}, ALL_TYPES),
    ],
)
def test_types(schema: Any, types: set[str]) -> None:
    assert admitted_types(schema, ROOT) == types


def test_properties_are_found_through_composition() -> None:
    part = {"properties": {"b": {"type": "null"}}}
    schema = {"properties": {"a": {"type": "integer"}}, "allOf": [part], "$ref": "#/$defs/c"}
    schema["$defs"] = {"c": {"properties": {"d": {"type": "array"}}}}
    assert property_schema(schema, "a") == {"type": "integer"}
    assert property_schema(schema, "b") == {"type": "null"}
    assert property_schema(schema, "d") == {"type": "array"}
    assert property_schema(schema, "e") is None


def test_undeclared_properties_follow_additional_properties() -> None:
    assert property_schema({"additionalProperties": {"type": "integer"}}, "x") == {"type": "integer"}
    assert property_schema({"additionalProperties": False}, "x") is None


def test_a_property_of_several_branches_admits_the_types_of_all() -> None:
    branches = [{"properties": {"x": {"type": "string"}}}, {"properties": {"x": {"type": "null"}}}]
    found = property_schema({"anyOf": branches}, "x")
    assert admitted_types(found, {}) == {"string", "null"}


def test_a_schema_that_doubles_at_every_reference_is_read_in_linear_time() -> None:
    defs: dict[str, Any] = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(200)}
    defs["d200"] = {"type": "integer", "properties": {"x": {"type": "null"}}}
    schema = {"$ref": "#/$defs/d0", "$defs": defs}
    assert admitted_types(schema, schema) == {"integer"}
    assert property_schema(schema, "x") == {"type": "null"}


INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "bound"),
    [
        ({"properties": {"b": INTEGER}}, True),
        ({"allOf": [{"properties": {"b": INTEGER}}]}, True),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"b": INTEGER}}}}, True),
        ({"additionalProperties": INTEGER}, True),
        ({"anyOf": [{"properties": {"b": INTEGER}}, {"uniqueItems": True}]}, False),
        ({"oneOf": [{"properties": {"b": INTEGER}}]}, False),
        ({"patternProperties": {"^b": {"type": "string"}}, "additionalProperties": INTEGER}, False),
        ({"$ref": "#"}, False),
    ],
)
def test_what_is_declared_in_a_branch_need_not_hold(schema: dict[str, Any], bound: bool) -> None:
    assert is_bound(schema, "b") is bound
