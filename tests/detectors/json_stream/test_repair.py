"""Repair: only the three mends, always validated again, never a value invented."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.json_stream.compiled import compile_schema
from detectors.json_stream.repair import Repaired, repair

SCHEMA = {"properties": {"a": {"type": "string"}, "b": {"type": "array"}}, "required": ["a"]}


def mend(text: str, schema: Any = SCHEMA) -> Repaired | None:
    return repair(text, compile_schema(schema))


@pytest.mark.parametrize(
    ("text", "value", "mended"),
    [
        ('{"a": "x",}', {"a": "x"}, ("trailing comma",)),
        ('{"b": [1, 2,\n], "a": "x" , }', {"a": "x", "b": [1, 2]}, ("trailing comma",)),
        ('{"a": "x"', {"a": "x"}, ("missing closers",)),
        ('{"a": "x", "b": [{"c": [1', {"a": "x", "b": [{"c": [1]}]}, ("missing closers",)),
        ('{"a": "x",', {"a": "x"}, ("missing closers",)),
        ('```json\n{"a": "x"}\n```', {"a": "x"}, ("code fence",)),
        ('```\n{"a": ",}",}\n```\n', {"a": ",}"}, ("code fence", "trailing comma")),
    ],
)
def test_what_can_be_mended(text: str, value: Any, mended: tuple[str, ...]) -> None:
    repaired = mend(text)
    assert repaired is not None
    assert (repaired.before, repaired.mended, repaired.final.value) == (text, mended, value)
    assert json.loads(repaired.after) == value


@pytest.mark.parametrize(
    "text",
    ['{"a": "x"}', '{"a": 1,}', '{"b": [1,],}', '{"a": "x', '{"a":', '{"a"', "{'a': 'x'}", '{"a": "x"]', "",
     '{"a": "x" "b": [,]}',     '{"a": "x", "a": "y",}', '{"a": tru'],
)  # fmt: skip
def test_what_is_left_alone(text: str) -> None:
    assert mend(text) is None


@settings(max_examples=30)
@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_strings_and_values_are_never_touched(value: Any) -> None:
    text = json.dumps({"v": value}, ensure_ascii=False)
    assert mend(text, {}) is None
    repaired = mend(text[:-1] + ",}", {})
    assert repaired is not None
    assert repaired.final.value == {"v": value}
    repaired = mend(text[:-1], {})
    assert repaired is not None
    assert repaired.final.value == {"v": value}
