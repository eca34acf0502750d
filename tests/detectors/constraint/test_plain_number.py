"""Every digit that is allowed leaves a way to a valid number, and no valid plain number is kept from being written."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.constraint.plain_number import can_end_plainly
from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import compile_schema


def possible(schema: dict[str, Any], text: str) -> bool:
    stream = JsonStream(compile_schema({"properties": {"k": schema}}))
    stream.feed(b'{"k":' + text.encode())
    return stream.trip is None and can_end_plainly(stream)


@pytest.mark.parametrize(
    ("schema", "allowed", "refused"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 40}, "1 4 9 40 39", "0 41 50 401 -"),
        ({"type": "integer", "minimum": 1950, "maximum": 2049}, "1 2 19 195 20 204", "3 18 194 205 0"),
        ({"type": "integer", "multipleOf": 7, "minimum": 10}, "1 14 2 21 105 12 126", "-"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0 0. 0.2 1 1.0", "2 -"),
        ({"type": "number", "minimum": 1e-9, "maximum": 1e-6}, "0 0.00 0.000001", "1 2"),
        ({"enum": [12, 3.5, -7]}, "1 12 3 3. 3.5 - -7", "2 13 35 -8"),
        ({"type": "integer"}, "0 12 -3 - 5.0", "1e 1e5"),
        ({"type": "integer", "maximum": -5}, "- -5 -6 -12 -1", "1 0"),
        ({}, "1 -0 0.5", "1e3 123456789012345678901"),
    ],
)
def test_which_digits_lead_anywhere(schema: dict[str, Any], allowed: str, refused: str) -> None:
    assert [text for text in allowed.split() if not possible(schema, text)] == []
    assert [text for text in refused.split() if possible(schema, text)] == []


def test_every_integer_within_bounds_can_be_written_digit_by_digit() -> None:
    schema = {"type": "integer", "minimum": -37, "maximum": 1234}
    for value in range(-37, 1235):
        text = str(value)
        assert all(possible(schema, text[:end]) for end in range(1, len(text) + 1)), value


def test_where_no_number_is_open_nothing_is_judged() -> None:
    assert possible({"type": "string"}, '"a')
    assert possible({"type": "integer", "maximum": 3}, "")
