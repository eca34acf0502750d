"""Strings and keys while they are open: escapes, surrogates, watched options, limits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.trip import SPECIFICATION, Rules
from tests.detectors.json_stream.official_suite import escaped


@given(st.lists(st.text(max_size=4), min_size=1, max_size=6, unique=True), st.text(max_size=5), st.booleans())
def test_an_enum_is_followed_character_by_character(options: list[str], text: str, escapes: bool) -> None:
    """Tripped at the first character after which no option begins so (or at the closing quote)."""
    written = escaped(text) if escapes else json.dumps(text, ensure_ascii=False)
    stream = JsonStream(compile_schema({"enum": options}), SPECIFICATION)
    stream.feed(written.encode())
    assert (stream.trip is None) == (text in options)
    if stream.trip is not None and not escapes:
        before = written.encode()[: stream.trip.offset].decode("utf-8", "ignore")[1:]
        if "\\" not in written:
            assert any(option.startswith(before) for option in options)


@given(st.text(max_size=6), st.integers(0, 6), st.booleans())
def test_length_is_counted_in_code_points(text: str, most: int, escapes: bool) -> None:
    written = escaped(text) if escapes else json.dumps(text)
    stream = JsonStream(compile_schema({"maxLength": most}), SPECIFICATION)
    for byte in written.encode():
        stream.feed(bytes([byte]))
    assert (stream.trip is None) == (len(text) <= most)


def test_a_key_is_followed_too() -> None:
    schema = compile_schema({"properties": {"é1": {}, "é2": {}}, "additionalProperties": False})
    stream = JsonStream(schema)
    assert stream.feed('{"é1": 0, "\\u00e9'.encode()) is None
    assert stream.clone().feed(b"2") is None
    trip = stream.feed(b"1")
    assert trip is not None
    assert trip.kind == "duplicate_key"


@pytest.mark.parametrize("half", ["\\ud800", "\\udfff", "\\ud800\\ud800\\udc00"])
def test_half_a_pair_that_is_let_through_is_not_judged_before_the_end(half: str) -> None:
    rules = Rules(lone_surrogates=False)
    stream = JsonStream(compile_schema({"properties": {"a": {"pattern": "^$"}}}), rules)
    assert stream.feed(f'{{"a": "{half}"}}'.encode()) is None
    assert stream.finish().trip is not None
    free = JsonStream(compile_schema({}), rules)
    assert free.feed(f'{{"{half}": "{half}", "\\ud801": 1}}'.encode()) is None
    assert free.finish().trip is None
