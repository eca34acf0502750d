"""Hostile schemas and values: bounded time and memory, a class for each limit, never an exception through `feed`.

Time is bounded by the test's own limit (minutes if something is quadratic), memory by tracemalloc.
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.trip import Rules, Trip

RECURSIVE = {"$defs": {"n": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/n"}}, {"type": "integer"}]}},
             "properties": {"a": {"$ref": "#/$defs/n"}}}  # fmt: skip


def feed(schema: Any, data: bytes, rules: Rules = Rules(), size: int = 4096) -> JsonStream:  # noqa: B008 (frozen)
    stream = JsonStream(compile_schema(schema), rules)
    for i in range(0, len(data), size):
        stream.feed(data[i : i + size])
    return stream


def kind(trip: Trip | None) -> str:
    return "" if trip is None else trip.kind


def test_fifty_thousand_brackets() -> None:
    data = b'{"a":' + b"[" * 50_000
    trip = feed(RECURSIVE, data).trip
    assert trip is not None
    assert (trip.kind, trip.offset) == ("limit_depth", 5 + 127)
    deep = feed(RECURSIVE, data + b"]" * 50_000 + b"}", Rules(depth=60_000))
    assert deep.trip is None
    assert kind(deep.finish().trip) == "limit_depth"


@pytest.mark.parametrize("character", ["x", "é", "\\n", "漢"])
def test_a_string_of_ten_megabytes(character: str) -> None:
    data = b'{"a":"' + character.encode() * (10_000_000 // len(character.encode())) + b'"}'
    assert kind(feed({}, data, size=1 << 16).trip) == "limit_size"
    tracemalloc.start()
    watched = {"properties": {"a": {"type": "string", "maxLength": 10**8}}}
    stream = JsonStream(compile_schema(watched), Rules(size=None))
    for i in range(0, 100_000, 1000):
        assert stream.feed(data[i : i + 1000]) is None
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000 * 1.2 + 100_000


def test_memory_is_the_raw_bytes_and_a_little() -> None:
    member = b'"k%d": {"x": [1, 2, {"y": "z"}]}, '
    data = b"{" + b"".join(member % i for i in range(5000))
    compile_schema({})
    tracemalloc.start()
    stream = JsonStream(compile_schema({}), Rules(size=None))
    for i in range(0, len(data), 70):
        stream.feed(data[i : i + 70])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stream.trip is None
    assert held < len(data) * 1.2 + 5000 * 170 + 50_000  # the keys of an open object are remembered


def test_ten_thousand_branches() -> None:
    branches = [{"properties": {"k": {"const": f"v{i}"}, f"p{i}": {"type": "integer"}}} for i in range(10_000)]
    stream = feed({"anyOf": branches}, b'{"k": "v7", "p7": 1}', size=1)
    assert stream.trip is None
    assert stream.finish().trip is None
    assert kind(feed({"anyOf": branches}, b'{"k": "v7", "p7": "x"}').finish().trip) == "schema"
    few = branches[:1000]
    assert kind(feed({"anyOf": few}, b'{"k": "v7", "p7": "x"}').trip) == "schema"


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=a)(a|aa)+$\\1", "(x+x+)+y"])
def test_a_hostile_pattern(pattern: str) -> None:
    for schema in ({"properties": {"a": {"pattern": pattern}}}, {"patternProperties": {pattern: {"type": "null"}}}):
        key = "a" if "properties" in schema else "a" * 5000 + "b"
        stream = feed(schema, json.dumps({key: "a" * 5000 + "b"}).encode())
        assert stream.trip is None or stream.trip.kind == "schema"


def test_a_megabyte_of_schema() -> None:
    wide = {"properties": {f"property {i}": {"type": "string", "description": "d" * 60} for i in range(8_000)}}
    assert kind(feed(wide, b'{"property 77": 1').trip) == "schema"
    huge = {"properties": {f"property {i}": {"type": "string", "description": "d" * 90} for i in range(12_000)}}
    stream = feed(huge, b'{"property 77": 1}')
    assert (stream.trip, stream.compiled.exactness) == (None, "opaque")
    assert kind(stream.finish().trip) == "schema"


def test_billion_laughs() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "object"}}
    for i in range(1, 60):
        definitions[f"d{i}"] = {"allOf": [{"$ref": f"#/$defs/d{i - 1}"}, {"$ref": f"#/$defs/d{i - 1}"}]}
    small = {"$defs": dict(list(definitions.items())[:12]), "properties": {"a": {"$ref": "#/$defs/d11"}}}
    assert kind(feed(small, b'{"a": 1').trip) == "schema"
    assert feed(small, b'{"a": {"b": {}}}').finish().trip is None


def test_a_schema_of_a_hundred_negations() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(50):
        schema = {"not": {"not": schema}}
    stream = feed({"properties": {"a": schema}}, b'{"a": 1}')
    assert kind(stream.finish().trip) == "schema"


def test_keys_and_items_without_end() -> None:
    keys = b"{" + b",".join(b'"%d":0' % i for i in range(20_000)) + b"}"
    assert kind(feed({}, keys).trip) == "limit_keys"
    assert kind(feed({}, b'{"' + b"k" * 70_000).trip) == "limit_keys"
    items = b'{"a":[' + b",".join(b"[%d]" % i for i in range(20_000)) + b"]}"
    unique = {"properties": {"a": {"uniqueItems": True, "items": {"type": "array"}}}}
    assert feed(unique, items).trip is None


def test_nested_unique_items_are_not_read_again_for_ever() -> None:
    data = b'{"a":' + b"[" * 100 + b",".join(b"%d" % i for i in range(2000)) + b"]" * 100 + b"}"
    schema = {
        "$defs": {"u": {"uniqueItems": True, "items": {"$ref": "#/$defs/u"}}},
        "properties": {"a": {"$ref": "#/$defs/u"}},
    }
    assert feed(schema, data, size=50).trip is None


@pytest.mark.parametrize("value", [b"9" * 399, b"-0", b"1e308", b"0." + b"0" * 300 + b"1", b"1E-400"])
def test_unusual_numbers(value: bytes) -> None:
    schema = {"properties": {"a": {"type": "number", "multipleOf": 0.1, "minimum": -1e308}}}
    stream = feed(schema, b'{"a":' + value + b"}")
    assert (stream.finish().trip is None) or stream.trip is not None
