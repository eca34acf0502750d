"""How a death travels outwards: through choices, past containers, and where the blame ends up."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema

UNION = {
    "anyOf": [
        {"properties": {"k": {"const": "a"}, "v": {"type": "string"}, "w": {"items": {"type": "null"}}}},
        {"properties": {"k": {"const": "b"}, "v": {"type": "integer"}}},
    ]
}


@pytest.mark.parametrize(
    ("text", "keyword", "instance_path"),
    [
        ('{"k": "a", "v": 1', "anyOf", ""),
        ('{"v": 1, "k": "a', "anyOf", ""),
        ('{"v": 1, "w": [3], "k": "b"}', None, None),
        ('{"v": 1.5,', "anyOf", ""),
        ('{"v": 1, "w": [3], "k": "a', "anyOf", ""),
        ('{"k": "c', "anyOf", ""),
    ],
)
def test_a_choice_dies_with_its_last_branch(text: str, keyword: str | None, instance_path: str | None) -> None:
    stream = JsonStream(compile_schema(UNION))
    for byte in text.encode():
        stream.feed(bytes([byte]))
    told = (None, None) if stream.trip is None else (stream.trip.keyword, stream.trip.instance_path)
    assert told == (keyword, instance_path)
    assert stream.trip is None or stream.trip.offset == len(text) - 1


def test_a_check_deep_inside_is_blamed_where_it_failed() -> None:
    schema: Any = {"properties": {"a": {"items": {"properties": {"b": {"minimum": 3}}}}}}
    trip = JsonStream(compile_schema(schema)).feed(b'{"a": [{}, {"b": 1}')
    assert trip is not None
    assert (trip.instance_path, trip.schema_path) == ("/a/1/b", "/properties/a/items/properties/b/minimum")
