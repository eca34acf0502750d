"""The stream: trips at the earliest byte, independent of the cut; prefixes of valid calls live; clones are apart."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.trip import SPECIFICATION, Rules, Trip
from tests.detectors.json_stream.official_suite import escaped
from tests.detectors.json_stream.tool_declarations import DECLARATIONS

EDIT = DECLARATIONS[2][1]


def read(schema: Any, data: bytes, rules: Rules = Rules(), size: int = 1) -> JsonStream:  # noqa: B008 (frozen)
    stream = JsonStream(compile_schema(schema), rules)
    for i in range(0, len(data), size):
        if stream.feed(data[i : i + size]) is not None:
            break
    return stream


def tripped(schema: Any, text: str | bytes, rules: Rules = Rules()) -> Trip:  # noqa: B008 (frozen)
    data = text if isinstance(text, bytes) else text.encode()
    trips = {read(schema, data, rules, size).trip for size in (1, 2, 3, 7, len(data))}
    assert len(trips) == 1, trips
    trip = trips.pop()
    assert trip is not None
    return trip


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        chance.shuffle(items)
        return {key: shuffled(member, chance) for key, member in items}
    return [shuffled(item, chance) for item in value] if isinstance(value, list) else value


def writings(call: Any) -> list[bytes]:
    """The same call as different models write it."""
    chance = random.Random(json.dumps(call))
    texts = [json.dumps(call), json.dumps(call, indent=2, ensure_ascii=False), escaped(call)]
    again = [shuffled(call, chance) for _ in range(3)]
    texts += [json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in again]
    texts.append(f" \n{texts[0]}\t")
    return [text.encode() for text in texts]


@pytest.mark.parametrize(("name", "schema", "calls"), DECLARATIONS, ids=[each[0] for each in DECLARATIONS])
def test_every_prefix_of_a_valid_call_lives(name: str, schema: Any, calls: list[Any]) -> None:
    assert compile_schema(schema).exactness == "exact"
    for call in calls:
        assert jsonschema.Draft202012Validator(schema).is_valid(call)
        for data in writings(call):
            for size in (1, 5, len(data)):
                stream = read(schema, data, size=size)
                assert stream.trip is None, (name, data, stream.trip)
                final = stream.finish()
                assert (final.value, final.trip) == (call, None)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"a":1}x', "syntax"),
        ("{a", "syntax"),
        ('{"a" 1', "syntax"),
        ('{"a":01', "syntax"),
        ('{"a":1.}', "syntax"),
        ('{"a":-}', "syntax"),
        ('{"a":1e+,', "syntax"),
        ('{"a":+', "syntax"),
        ('{"a":.', "syntax"),
        ('{"a":trux', "syntax"),
        ('{"a":N', "syntax"),
        ('{"a":[1,]', "syntax"),
        ('{"a":1,}', "syntax"),
        ('{"a":[1}', "syntax"),
        ('{"a":"\\x', "syntax"),
        ('{"a":"\\u12g', "syntax"),
        ('{"a":"\n', "syntax"),
        (b'{"a":"\xff', "syntax"),
        (b'{"a":"\xc0', "syntax"),
        (b'{"a":"\xc3"', "syntax"),
        (b'{"a":"\xe0\x80', "syntax"),
        (b'{"a":"\xed\xa0', "syntax"),
        (b'{"a":"\xf4\x90', "syntax"),
        (b"\xef", "syntax"),
        ('{"a":1,"a"', "duplicate_key"),
        ('{"a":1,"\\u0061"', "duplicate_key"),
        ('{"a":"\\ud83dx', "lone_surrogate"),
        ('{"a":"\\ud83d\\n', "lone_surrogate"),
        ('{"a":"\\ud83d\\u0', "lone_surrogate"),
        ('{"a":"\\ud83d\\ud8', "lone_surrogate"),
        ('{"a":"\\udc', "lone_surrogate"),
        ("{" + " " * 137, "whitespace_run"),
        ("[", "not_an_object"),
        (' "', "not_an_object"),
        ('{"a":' + "[" * 128, "limit_depth"),
        ('{"a":' + "1" * 401, "limit_number"),
        ('{"a":1e999,', "limit_number"),
    ],
)
def test_what_no_schema_allows_trips_at_its_last_byte(text: str | bytes, kind: str) -> None:
    trip = tripped({}, text)
    assert (trip.kind, trip.offset) == (kind, len(text if isinstance(text, bytes) else text.encode()) - 1)


@pytest.mark.parametrize(
    ("schema", "text", "keyword", "instance_path", "schema_path"),
    [
        ({"properties": {"a": {"type": "string"}}}, '{"a": 1', "type", "/a", "/properties/a/type"),
        ({"properties": {"a/b": {"type": "integer"}}}, '{"a/b":1.5,', "type", "/a~1b", "/properties/a~1b/type"),
        ({"required": ["a"]}, '{"b":1}', "required", "", "/required"),
        (
            {"additionalProperties": False, "properties": {"ab": {}}},
            '{"ac',
            "additionalProperties",
            "",
            "/additionalProperties",
        ),
        ({"additionalProperties": False}, '{"', "additionalProperties", "", "/additionalProperties"),
        (
            {"properties": {"a": {}}, "additionalProperties": False},
            '{"a":1,',
            "additionalProperties",
            "",
            "/additionalProperties",
        ),
        ({"properties": {"a": False}}, '{"a"', "false", "/a", "/properties/a"),
        ({"patternProperties": {"^x": {"type": "null"}}}, '{"xy":t', "type", "/xy", "/patternProperties/^x/type"),
        ({"propertyNames": {"maxLength": 2}}, '{"abc', "maxLength", "", "/propertyNames/maxLength"),
        ({"propertyNames": {"pattern": "^a"}}, '{"b"', "pattern", "", "/propertyNames/pattern"),
        ({"minProperties": 2}, '{"b":0}', "minProperties", "", "/minProperties"),
        ({"maxProperties": 1}, '{"b":0,', "maxProperties", "", "/maxProperties"),
        ({"dependentRequired": {"a": ["b"]}}, '{"a":0}', "dependentRequired", "", "/dependentRequired"),
        ({"dependentSchemas": {"a": {"minProperties": 2}}}, '{"a":0}', "dependentSchemas", "", "/dependentSchemas"),
        ({"properties": {"a": {"enum": ["xy", "xz"]}}}, '{"a":"xa', "enum", "/a", "/properties/a/enum"),
        ({"properties": {"a": {"enum": ["é"]}}}, '{"a":"\\u00e8', "enum", "/a", "/properties/a/enum"),
        ({"properties": {"a": {"enum": ["é"]}}}, '{"a":"\\u01', "enum", "/a", "/properties/a/enum"),
        ({"properties": {"a": {"enum": ["😀"]}}}, '{"a":"\\ud83d\\ude01', "enum", "/a", "/properties/a/enum"),
        ({"properties": {"a": {"const": "x"}}}, '{"a":"x\\', "const", "/a", "/properties/a/const"),
        ({"properties": {"a": {"const": "xy"}}}, '{"a":"x"', "const", "/a", "/properties/a/const"),
        ({"properties": {"a": {"const": True}}}, '{"a":f', "const", "/a", "/properties/a/const"),
        ({"properties": {"a": {"const": {"b": [1]}}}}, '{"a":{"b":[2]', "const", "/a/b/0", "/properties/a/const"),
        ({"properties": {"a": {"maxLength": 1}}}, '{"a":"😀x', "maxLength", "/a", "/properties/a/maxLength"),
        ({"properties": {"a": {"maxLength": 1}}}, '{"a":"x\\', "maxLength", "/a", "/properties/a/maxLength"),
        ({"properties": {"a": {"minLength": 2}}}, '{"a":"x"', "minLength", "/a", "/properties/a/minLength"),
        ({"properties": {"a": {"pattern": "^a+$"}}}, '{"a":"ab"', "pattern", "/a", "/properties/a/pattern"),
        ({"properties": {"a": {"minimum": 3}}}, '{"a":2 ', "minimum", "/a", "/properties/a/minimum"),
        ({"properties": {"a": {"multipleOf": 0.01}}}, '{"a":0.075,', "multipleOf", "/a", "/properties/a/multipleOf"),
        (
            {"properties": {"a": {"items": {"type": "null"}}}},
            '{"a":[null,1',
            "type",
            "/a/1",
            "/properties/a/items/type",
        ),
        (
            {"properties": {"a": {"prefixItems": [{}], "items": False}}},
            '{"a":[1,',
            "maxItems",
            "/a",
            "/properties/a/maxItems",
        ),
        ({"properties": {"a": {"maxItems": 1}}}, '{"a":[[],', "maxItems", "/a", "/properties/a/maxItems"),
        ({"properties": {"a": {"minItems": 1}}}, '{"a":[]', "minItems", "/a", "/properties/a/minItems"),
        ({"properties": {"a": {"contains": {"const": 1}}}}, '{"a":[2]', "contains", "/a", "/properties/a/contains"),
        (
            {"properties": {"a": {"contains": {}, "maxContains": 1}}},
            '{"a":[2,3]',
            "maxContains",
            "/a",
            "/properties/a/maxContains",
        ),
        (
            {"properties": {"a": {"uniqueItems": True}}},
            '{"a":[{"x":1},{"x":1.0}',
            "uniqueItems",
            "/a",
            "/properties/a/uniqueItems",
        ),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"c":1}', "anyOf", "", "/anyOf"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"a":1,"b":1,', "oneOf", "", "/oneOf"),
        ({"not": {"required": ["a"]}}, '{"a":1}', "not", "", "/not"),
        ({"properties": {"a": {"not": {"type": "string"}}}}, '{"a":"', "not", "/a", "/properties/a/not"),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, '{"a":1}', "if", "", "/if"),
        (
            {"allOf": [{}, {"properties": {"a": {"type": "null"}}}]},
            '{"a":1',
            "type",
            "/a",
            "/allOf/1/properties/a/type",
        ),
        (
            {"$defs": {"d": {"type": "null"}}, "properties": {"a": {"$ref": "#/$defs/d"}}},
            '{"a":1',
            "type",
            "/a",
            "/$defs/d/type",
        ),
    ],
)
def test_a_trip_says_what_and_where(schema: Any, text: str, keyword: str, instance_path: str, schema_path: str) -> None:
    trip = tripped(schema, text)
    assert (trip.kind, trip.keyword) == ("schema", keyword)
    assert (trip.instance_path, trip.schema_path) == (instance_path, schema_path)
    assert trip.offset == len(text.encode()) - 1


def test_a_trip_stays_and_what_follows_is_ignored() -> None:
    stream = JsonStream(compile_schema(EDIT))
    trip = stream.feed(b'{"file_path": 1')
    assert trip is not None
    assert stream.feed(b'"x"}') is trip
    assert stream.finish().trip is trip
    assert not stream.complete


def test_the_end_is_judged_by_the_reference() -> None:
    schema = {"properties": {"a": {}}, "unevaluatedProperties": False}
    stream = read(schema, b'{"b": 1}')
    assert stream.trip is None
    trip = stream.finish().trip
    assert trip is not None
    assert (trip.keyword, trip.offset, trip.exactness) == ("unevaluatedProperties", 8, "late")


def test_no_arguments_are_an_empty_object() -> None:
    assert JsonStream(compile_schema({})).finish().value == {}
    missing = JsonStream(compile_schema({"required": ["a"]})).finish().trip
    assert missing is not None
    assert missing.keyword == "required"
    strict = JsonStream(compile_schema({}), Rules(empty_is_object=False)).finish().trip
    assert strict is not None
    assert strict.kind == "truncated"


@pytest.mark.parametrize("text", ['{"a":1', '{"a', "{", '{"a":"x', '{"a":"\\u00', '{"a":t'])
def test_an_end_in_the_middle_is_truncated(text: str) -> None:
    stream = read({}, text.encode())
    assert stream.trip is None
    final = stream.finish().trip
    assert final is not None
    assert (final.kind, final.offset) == ("truncated", len(text))


def test_own_classes_can_be_switched_off() -> None:
    repeated = '{"a": "x", "a": 1}'
    schema = {"properties": {"a": {"type": "integer"}}}
    assert read(schema, repeated.encode(), Rules(duplicate_keys=False)).finish().value == {"a": 1}
    assert read({}, b'{"a":"\\ud800"}', Rules(lone_surrogates=False)).finish().value == {"a": "\ufffd"}
    assert read({}, b"{" + b" " * 999 + b"}", Rules(whitespace_run=None)).finish().trip is None
    assert read({}, b"[1]", Rules(root_object=False)).finish().value == [1]
    assert read({}, b"12", Rules(root_object=False)).finish().value == 12
    assert read({}, b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", Rules(depth=300)).finish().trip is None


def test_a_limit_on_the_size_is_hit_at_its_byte() -> None:
    trip = tripped({}, '{"a":"' + "x" * 100, Rules(size=50))
    assert (trip.kind, trip.offset) == ("limit_size", 50)


def test_a_limit_on_the_keys() -> None:
    trip = tripped({}, json.dumps({str(i): 0 for i in range(9)}), Rules(keys=3))
    assert (trip.kind, trip.offset) == ("limit_keys", len('{"0": 0, "1": 0, "2": 0, "3"') - 1)


def test_a_bare_number_ends_with_the_input() -> None:
    stream = read({"type": "integer", "minimum": 10}, b"12", SPECIFICATION)
    assert stream.finish().value == 12
    assert stream.finish().value == 12
    assert stream.feed(b"3") is None
    assert stream.finish().value == 123
    late = read({"minimum": 10}, b"1", SPECIFICATION).finish().trip
    assert late is not None
    assert late.keyword == "minimum"


def test_a_clone_and_its_original_never_meet() -> None:
    schema = DECLARATIONS[3][1]
    first = b'{"file_path": "a", "edits": [{"old_string": "1", "new'
    stream = read(schema, first)
    good, bad = stream.clone(), stream.clone()
    assert bad.feed(b"er") is not None
    assert good.feed(b'_string": "2"}]}') is None
    assert stream.trip is None
    assert stream.feed(b'_string": "3"}, {"new_string": ""') is None
    assert good.finish().value == {"file_path": "a", "edits": [{"old_string": "1", "new_string": "2"}]}
    assert stream.feed(b', "old_string": "4"}]}') is None
    assert [edit["new_string"] for edit in stream.finish().value["edits"]] == ["3", ""]


def test_a_clone_does_not_see_what_its_original_takes_later() -> None:
    stream = read({"additionalProperties": {"uniqueItems": True, "maxItems": 3}}, b'{"a": [1, 2')
    other = stream.clone()
    assert stream.feed(b', 3], "b": [') is None
    assert other.feed(b', 3], "b": [5], "c": [') is None
    assert stream.feed(b'5], "c": [5]}') is None
    assert other.feed(b"5]}") is None
    assert stream.finish().value == other.finish().value == {"a": [1, 2, 3], "b": [5], "c": [5]}


@given(st.sampled_from(DECLARATIONS), st.randoms(use_true_random=False))
def test_asking_a_clone_about_every_byte_changes_nothing(declared: Any, chance: random.Random) -> None:
    """As filtered decoding does: candidates are tried on clones, the chosen one is fed."""
    _, schema, calls = declared
    data = writings(shuffled(calls[-1], chance))[0]
    stream = JsonStream(compile_schema(schema))
    for i in range(len(data)):
        for wrong in (chance.randrange(256), ord("}"), ord(",")):
            stream.clone().feed(bytes([wrong, 34, 58]))
        assert stream.clone().feed(data[i : i + 3]) is None
        assert stream.feed(data[i : i + 1]) is None
    assert stream.finish().trip is None
    assert stream.raw() == data
