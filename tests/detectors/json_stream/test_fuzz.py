"""Random schemas and values: never too early, and the same verdict as jsonschema-rs and jsonschema.

Accepted disagreements of `jsonschema` with jsonschema-rs are avoided by construction, and named here:
decimal `multipleOf` (binary arithmetic), `\\p{}` and Unicode `\\d` in patterns (Python's `re`), numbers beyond 2**53,
and draft-07's `items: true` beside `additionalItems`, on which it raises.
"""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
import referencing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.trip import SPECIFICATION
from tests.detectors.json_stream.official_suite import serialisations
from tests.detectors.json_stream.random_schemas import RandomSchemas

KEYS = st.sampled_from(["a", "b", "ab", "é"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", "aé", 1.5, 2.0, -0.0])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
COUNTS = st.integers(0, 2)


def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    few = st.lists(inner, min_size=1, max_size=3)
    names = st.lists(KEYS, max_size=2, unique=True)
    shared: dict[str, st.SearchStrategy[Any]] = {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "properties": st.dictionaries(KEYS, inner, max_size=3),
        "required": names,
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$", "."]), inner, max_size=1),
        "propertyNames": inner,
        "minProperties": COUNTS,
        "maxProperties": COUNTS,
        "items": inner,
        "contains": inner,
        "minItems": COUNTS,
        "maxItems": COUNTS,
        "uniqueItems": st.booleans(),
        "allOf": few,
        "anyOf": few,
        "oneOf": few,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "const": VALUES,
        "minimum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(-2, 2),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": COUNTS,
        "maxLength": COUNTS,
        "pattern": st.sampled_from(["^a", "b$", "^$"]),
        "$ref": st.sampled_from(["#/$defs/d", "#/$defs/e"]),
    }
    modern = {
        "prefixItems": few,
        "minContains": COUNTS,
        "maxContains": COUNTS,
        "dependentRequired": st.dictionaries(KEYS, names, max_size=1),
        "dependentSchemas": st.dictionaries(KEYS, inner, max_size=1),
        "unevaluatedProperties": inner,
        "unevaluatedItems": inner,
    }
    return st.fixed_dictionaries({}, optional=shared | modern)


SCHEMAS = st.recursive(st.booleans() | extend(st.booleans()), extend, max_leaves=6)
OLD_ONLY = {"prefixItems": "items", "dependentRequired": "dependencies", "dependentSchemas": "dependencies"}


def as_draft7(schema: Any) -> Any:
    """The same ideas in the words of draft-07."""
    if isinstance(schema, list):
        return [as_draft7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        OLD_ONLY.get(key, key): value if key in ("enum", "const") else as_draft7(value) for key, value in schema.items()
    }


DRAFTS = pytest.mark.parametrize("draft", ["2020-12", "draft-07"])
DRAWN = (extend(SCHEMAS), extend(st.booleans()), st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 5))


@DRAFTS
@settings(max_examples=30)
@given(*DRAWN)
def test_random_schemas_and_values(draft: str, schema: Any, other: Any, values: list[Any], size: int) -> None:
    agree(draft, schema, other, values, size)


@pytest.mark.slow
@DRAFTS
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(*DRAWN)
def test_many_random_schemas_and_values(draft: str, schema: Any, other: Any, values: list[Any], size: int) -> None:
    agree(draft, schema, other, values, size)


@DRAFTS
def test_a_sweep_of_random_schemas(draft: str) -> None:
    sweep(draft, seed=1, schemas=250)


@pytest.mark.slow
@DRAFTS
def test_a_long_sweep_of_random_schemas(draft: str) -> None:
    sweep(draft, seed=2, schemas=20_000)


def sweep(draft: str, seed: int, schemas: int) -> None:
    """Faster than drawing: many values for each schema."""
    made = RandomSchemas(seed, draft)
    for i in range(schemas):
        agree_on(draft, made.document(), [made.value() for _ in range(8)], 1 + i % 6)


def agree(draft: str, schema: Any, other: Any, values: list[Any], size: int) -> None:
    """Two references and the stream, in all serialisations, of one opinion."""
    other.pop("$ref", None)
    recursive = {"properties": {"a": {"$ref": "#/$defs/e"}}, "type": ["object", "null"]}
    schema = {**schema, "$defs": {"d": other, "e": recursive}}
    if draft == "draft-07":
        schema = {"$schema": "http://json-schema.org/draft-07/schema#", **as_draft7(schema)}
    agree_on(draft, schema, values, size)


def agree_on(draft: str, schema: Any, values: list[Any], size: int) -> None:
    reference: Any = jsonschema.Draft7Validator if draft == "draft-07" else jsonschema.Draft202012Validator
    compiled = compile_schema(schema)
    second = reference(schema, registry=referencing.Registry())
    for value in values:
        valid = compiled.validator.is_valid(value)
        assert valid == second.is_valid(value)
        for _, data in serialisations(value):
            stream = JsonStream(compiled, SPECIFICATION)
            for i in range(0, len(data), size):
                stream.feed(data[i : i + size])
            whole = JsonStream(compiled, SPECIFICATION)
            whole.feed(data)
            assert stream.trip == whole.trip
            assert stream.trip is None or not valid, (value, stream.trip)
            assert (stream.finish().trip is None) == valid


@given(
    st.binary(max_size=40) | st.text(st.sampled_from('{}[]",:\\u0aedD8 \n1-.+truefalsn'), max_size=40).map(str.encode)
)
def test_random_bytes_agree_with_python(data: bytes) -> None:
    stream = JsonStream(compile_schema({}), SPECIFICATION)
    whole = JsonStream(compile_schema({}), SPECIFICATION)
    for i in range(len(data)):
        stream.feed(data[i : i + 1])
    whole.feed(data)
    assert stream.trip == whole.trip
    final = stream.finish()
    try:
        pairs = json.loads(data.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
        known = True
    except (ValueError, RecursionError):
        pairs, known = None, False
    if data.startswith(b"\xef\xbb\xbf"):
        known = False
    assert (final.trip is None) == known, (final, pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key occurs twice")
    return members


def test_long_documents_in_random_pieces() -> None:
    chance = random.Random(3)
    schema = {"additionalProperties": {"type": ["string", "array"], "items": {"type": "integer"}, "maxLength": 3000}}
    value = {f"key {i}": "é😀x" * i if i % 2 else list(range(i)) for i in range(120)}
    for _, data in serialisations(value):
        stream, at = JsonStream(compile_schema(schema)), 0
        while at < len(data):
            size = chance.choice((1, 2, 3, 50, 4096, 9000))
            assert stream.feed(data[at : at + size]) is None
            at += size
        assert stream.finish().value == value
        assert stream.raw() == data
