"""Compiled schemas: equal ones are shared, memory is bounded, references and foreign drafts are not guessed at."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from detectors.json_stream import compiled
from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import KNOWN_KEYS, SCHEMAS_KEPT, UNCHECKED, CompiledSchema, compile_schema
from detectors.json_stream.trip import Trip


def stream(schema: Any, text: str) -> tuple[Trip | None, Trip | None]:
    read = JsonStream(compile_schema(schema))
    read.feed(text.encode())
    return read.trip, read.finish().trip


def test_equal_schemas_are_compiled_once_and_few_are_kept() -> None:
    compiled._cache.clear()
    for i in range(SCHEMAS_KEPT + 10):
        assert compile_schema({"const": i}) is compile_schema({"const": i})
    assert len(compiled._cache) == SCHEMAS_KEPT
    kept = list(compiled._cache.values())
    compile_schema({"const": SCHEMAS_KEPT})
    assert {id(v) for v in compiled._cache.values()} == {id(v) for v in kept}


@pytest.mark.parametrize(
    "schema",
    [{"type": "objekt"}, {"$ref": "http://192.0.2.1/x.json"}, {"const": float("nan")}, {"pattern": "("}],
)
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises((ValueError, jsonschema_rs.ReferencingError)):
        compile_schema(schema)


def test_what_is_no_schema_is_refused_also_beside_one_that_is_kept() -> None:
    """A quick encoder writes no number as null."""
    assert compile_schema({"const": None}) is compile_schema({"const": None})
    with pytest.raises(ValueError, match="JSON compliant"):
        compile_schema({"const": float("nan")})
    with pytest.raises(TypeError):
        compile_schema({"const": object()})


@pytest.mark.parametrize("schema", [{"const": 1 << 70}, {"const": [None, "null"]}, True])
def test_what_the_quick_encoder_cannot_tell_is_compiled_once_too(schema: Any) -> None:
    assert compile_schema(schema) is compile_schema(json.loads(json.dumps(schema)))


def test_a_foreign_draft_is_left_to_the_reference() -> None:
    schema = {"$schema": "http://json-schema.org/draft-04/schema#", "required": ["a"]}
    early, final = stream(schema, "{}")
    assert early is None
    assert final is not None
    assert final.exactness == "opaque"
    assert compile_schema(schema).root is UNCHECKED


def test_the_draft_decides_what_stands_beside_a_reference() -> None:
    schema: dict[str, Any] = {"$defs": {"a": {}}, "properties": {"x": {"$ref": "#/$defs/a", "type": "null"}}}
    assert stream(schema, '{"x":1')[0] is not None
    assert stream({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, '{"x":1}') == (None, None)


def test_references_into_other_documents_need_them() -> None:
    schema = {"properties": {"a": {"$ref": "http://example.org/other#/x"}}}
    other = {"x": {"type": "null"}}
    known = CompiledSchema(schema, json.dumps(schema), [("http://example.org/other", other)])
    read = JsonStream(known)
    assert read.feed(b'{"a":1') is not None


def test_a_circle_of_references_is_left_to_the_reference() -> None:
    schema = {"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"anyOf": [{"$ref": "#/$defs/b"}, {}]}}}
    read = JsonStream(compile_schema(schema))
    assert read.feed(b'{"a": [1, {"b": 2}]}') is None


def test_links_for_unknown_keys_do_not_pile_up() -> None:
    schema = compile_schema({"properties": {"known": {}}, "additionalProperties": {"type": "integer"}})
    read = JsonStream(schema)
    assert read.feed(json.dumps({f"k{i}": i for i in range(2000)} | {"known": 1}).encode()) is None
    plan = schema.root.plan
    assert len(plan.members) <= KNOWN_KEYS + 1
    assert "known" in plan.members
