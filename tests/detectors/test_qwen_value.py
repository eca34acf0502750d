"""The text of a parameter becomes the JSON that it stands for, character by character where that can be known."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.qwen_value import QwenValue
from detectors.qwen_xml import typed
from detectors.schema_types import property_schema

KINDS: list[Any] = [{"type": "string"}, {"type": "array"}, {"type": "integer"}, {"type": ["string", "null"]}, {}]
TEXT = st.text(st.sampled_from('a"\\ \n[]{},:1tTrue\u20ac'), max_size=12)


@given(st.sampled_from(KINDS), TEXT, st.integers(1, 5))
def test_it_stands_for_the_typed_value_however_it_is_cut(schema: Any, text: str, size: int) -> None:
    root = {"properties": {"k": schema}}
    value = QwenValue(root, "k")
    body = value.opening()
    for at in range(0, len(text), size):
        copied = value.clone()
        copied.more("x")  # must not be seen by the original
        body += value.more(text[at : at + size])
    body += value.closing()
    wanted = typed(text, property_schema(root, "k"), root)
    try:
        found = json.loads(body)
    except ValueError:
        assert isinstance(wanted, str)  # text where JSON was due: refused either way
        assert "string" not in str(schema)
    else:
        is_text = schema.get("type") in ("array", "integer") and isinstance(wanted, str)  # refused, whatever it says
        assert isinstance(found, str) if is_text else found == wanted


@pytest.mark.parametrize(
    ("schema", "key", "value"),
    [
        ({"anyOf": [{"properties": {"b": {"type": "integer"}}}, {"uniqueItems": True}]}, "b", "{'c': ['null']}"),
        (
            {"patternProperties": {"^a": {"type": "string"}}, "additionalProperties": {"type": "integer"}},
            "ab",
            "[todo] fix",
        ),
    ],
)
def test_a_declaration_that_need_not_hold_accuses_nobody(schema: dict[str, Any], key: str, value: str) -> None:
    """Text that begins like JSON, where another branch or a pattern of names admits text."""
    made = QwenValue(schema, key)
    body = made.opening() + b"".join(made.more(char) for char in value)
    assert body == b""
    assert made.is_held
