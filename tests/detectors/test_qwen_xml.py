"""Reading of call bodies: what is a value, what it becomes under a schema, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.qwen_xml import Call, MarkupError, read_call, read_markup, typed


def body(name: str, **values: str) -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"\n<function={name}>\n{inner}</function>\n"


def test_a_call_is_read() -> None:
    schema = {"properties": {"count": {"type": "integer"}, "path": {"type": "string"}}}
    call = read_call(body("ls", path="a b", count="3"), lambda name: schema if name == "ls" else None)
    assert call == Call("ls", {"path": "a b", "count": 3})


def test_a_call_without_arguments() -> None:
    assert read_markup("\n<function=now>\n</function>\n") == ("now", {})
    assert read_markup("<function=now></function>") == ("now", {})


@given(st.text(st.sampled_from("ab \t\n<>/=\"'é"), max_size=40))
def test_all_but_one_newline_on_each_side_belongs_to_the_value(value: str) -> None:
    assert read_markup(body("f", v=value)) == ("f", {"v": value})


@pytest.mark.parametrize(
    "value",
    [
        "  indented\n\n",
        "<a>\n  </parameter>\n</a>",
        "say '<tool_call>' and </parameter>",
        "<parameter=x> in a line",
        "",
    ],
)
def test_values_may_hold_what_looks_like_markup(value: str) -> None:
    assert read_markup(body("f", v=value, w="2")) == ("f", {"v": value, "w": "2"})


def test_values_on_one_line_and_empty_ones_are_tolerated() -> None:
    text = "<function=f><parameter=a>x</parameter><parameter=b>\n</parameter>\n</function>"
    assert read_markup(text) == ("f", {"a": "x", "b": ""})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing_function"),
        ("\nls\n", "missing_function"),
        ("<function=>\n</function>", "missing_function"),
        ('{"name": "ls"}', "missing_function"),
        ("<function=ls>\n<parameter=a>\nx\n", "malformed_markup"),
        ("<function=ls>\n<parameter=a>\nx\n</parameter>\n", "malformed_markup"),
        ("<function=ls>\n<parameter=a\nx\n</parameter>\n</function>", "text_outside"),
        ("<function=ls>\n<parameter=a>\nx\n<parameter=b>\ny\n</parameter>\n</function>", "malformed_markup"),
        (body("ls", a="x").replace("</function>", "so</function>"), "text_outside"),
        (body("ls", a="x") + body("ls", a="x"), "text_outside"),
        (body("ls", a="x").replace("<parameter", "well <parameter"), "text_outside"),
        ("<function=ls>" + "\n<parameter=a>\nx\n</parameter>" * 2 + "</function>", "duplicate_parameter"),
        (body("ls", a="x").replace("parameter=a", "parameter=command=ls"), "bad_key"),
        (body("ls", a="x").replace("parameter=a", "parameter= a"), "bad_key"),
        (f"<function=ls>\n<parameter=a>\nx\n<tool_call>{body('ls', b='y')}", "nested_call"),
        ("\n<tool_call>\n<tool_call>\n", "nested_call"),
    ],
)
def test_broken_markup_is_refused_with_its_class(text: str, reason: str) -> None:
    with pytest.raises(MarkupError) as caught:
        read_markup(text)
    assert caught.value.reason == reason


INTEGER, STRING, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("12", STRING, "12"),
        ("12", INTEGER, 12),
        (" 12 ", INTEGER, 12),
        ("1.5", {"type": "number"}, 1.5),
        ("twelve", INTEGER, "twelve"),
        ('"twelve"', INTEGER, "twelve"),
        ("true", {"type": "boolean"}, True),
        ("True", {"type": "boolean"}, True),
        ("None", {"type": ["string", "null"]}, None),
        ("null", STRING, "null"),
        ("null", {"anyOf": [STRING, NULL]}, None),
        ("nil", {"anyOf": [STRING, NULL]}, "nil"),
        ("12", {"anyOf": [STRING, NULL]}, "12"),
        ("12", {"type": ["string", "integer"]}, 12),
        ('"a"', {"type": ["string", "null"]}, '"a"'),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ('{"a": [null]}', {"type": "object"}, {"a": [None]}),
        ('{"a": 1, "a": 2}', {"type": "object"}, '{"a": 1, "a": 2}'),
        ("NaN", {"type": "number"}, "NaN"),
        ("1e999", {"type": "number"}, "1e999"),
        ('["\\ud800"]', {"type": "array"}, '["\\ud800"]'),
        ("[" * 500 + "]" * 500, {"type": "array"}, "[" * 500 + "]" * 500),
        ("9" * 5000, INTEGER, "9" * 5000),
        ("2", {"enum": ["1", "2"]}, "2"),
        ("2", {"enum": [1, 2]}, 2),
        ("a", None, "a"),
        ("1", None, "1"),
        ("[1]", {}, [1]),
    ],
)
def test_values_are_typed_by_their_schema(text: str, schema: Any, value: Any) -> None:
    result = typed(text, schema, {})
    assert result == value
    assert type(result) is type(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_a_value_without_a_type_is_what_was_written(value: Any) -> None:
    import json

    if not isinstance(value, str):
        assert typed(json.dumps(value), {}, {}) == value
