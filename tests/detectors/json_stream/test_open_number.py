"""Numbers: the grammar of RFC 8259, decided at the byte that ends them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.trip import SPECIFICATION


def is_number(text: str) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=lambda word: None), int | float) and not text.isspace()
    except ValueError:
        return False


@given(st.text(st.sampled_from("0123456789-+.eE"), min_size=1, max_size=12))
def test_the_grammar_is_that_of_json(text: str) -> None:
    stream = JsonStream(compile_schema({}), SPECIFICATION)
    stream.feed(text.encode())
    final = stream.finish().trip
    if final is None or final.kind != "limit_number":
        assert (final is None) == is_number(text)


@pytest.mark.parametrize(
    ("schema", "digits", "valid"),
    [
        ({"type": "integer"}, b"10.0", True),
        ({"type": "integer"}, b"25e-1", False),
        ({"type": "integer"}, b"1e2", True),
        ({"maximum": 10}, b"250e-2", True),
        ({"maximum": 10}, b"250", False),
        ({"minimum": 0}, b"-0", True),
        ({"const": 1}, b"1.0", True),
        ({"enum": [1, 2]}, b"12", False),
        ({"multipleOf": 0.01}, b"0.07", True),
    ],
)
def test_digits_never_trip(schema: object, digits: bytes, valid: bool) -> None:
    stream = JsonStream(compile_schema(schema), SPECIFICATION)
    for i in range(len(digits)):
        assert stream.feed(digits[i : i + 1]) is None
    assert (stream.feed(b" ") is None) is valid
    assert (stream.finish().trip is None) is valid


@pytest.mark.parametrize("text", ["-01", "01", "00", "1.", "-", "1e", "1e+", ".5", "+1", "1.e1", "0x1", "1-1", "--1"])
def test_what_is_no_number(text: str) -> None:
    stream = JsonStream(compile_schema({}), SPECIFICATION)
    trip = stream.feed(text.encode() + b" ")
    assert trip is not None
    assert trip.kind == "syntax"
