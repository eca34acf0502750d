"""One schema object as a node: which checks it has, and what a constant becomes."""

from __future__ import annotations

from typing import Any

import pytest

from detectors.json_stream.nodes import ALL_KINDS, ARRAY, FALSE, NULL, NUMBER, OBJECT, STRING, TRUE, Builder, Node


def built(schema: Any, draft: str = "2020-12") -> Node:
    numbers: list[Any] = []

    def child(part: Any, base: str, path: str) -> int:
        numbers.append(part)
        return len(numbers) - 1

    return Builder(draft, child, child, lambda reference, base: 99).build(schema, "", "/x")


def kinds(*each: int) -> int:
    return sum(1 << kind for kind in each)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, ALL_KINDS),
        (False, 0),
        ({"type": "boolean"}, kinds(TRUE, FALSE)),
        ({"type": ["integer", "null"]}, kinds(NUMBER, NULL)),
        ({"enum": ["a", 1, True]}, kinds(STRING, NUMBER, TRUE)),
        ({"const": None}, kinds(NULL)),
        ({"type": "string", "enum": ["a", 1]}, kinds(STRING)),
        ({"enum": []}, 0),
    ],
)
def test_kinds(schema: Any, expected: int) -> None:
    assert built(schema).kinds == expected


def test_members_that_other_checks_exclude_are_no_options() -> None:
    node = built({"enum": ["abc", "b", "é"], "maxLength": 1})
    assert node.enums == [("enum", [b"b", "é".encode()])]


def test_a_closed_object_knows_its_keys() -> None:
    assert built({"properties": {"b": {}, "a": {}, "c": False}, "additionalProperties": False}).closed == [b"a", b"b"]
    assert built({"patternProperties": {"^x": {}}, "additionalProperties": False}).closed is None


def test_draft_07_ignores_what_stands_beside_a_reference() -> None:
    schema = {"$ref": "#/a", "type": "string"}
    assert built(schema, "draft-07").kinds == ALL_KINDS
    assert built(schema).kinds == kinds(STRING)
    assert built(schema).formulas[0] == ("all", "$ref", (99,))


def test_words_that_mean_other_things_in_draft_07() -> None:
    old = built({"items": [{}, {}], "additionalItems": False, "dependencies": {"a": ["b"], "c": {}}}, "draft-07")
    assert (len(old.prefix), old.max_items) == (2, 2)
    assert old.dep_required == [("dependencies", "a", ("b",))]
    assert [(op, keyword) for op, keyword, _ in old.formulas] == [("dep", "dependencies")]


def test_what_only_the_end_can_tell_makes_a_node_opaque() -> None:
    assert built({"unevaluatedItems": False}).opaque
    assert built({"$dynamicRef": "#x"}).opaque
    assert not built({"format": "email"}).opaque


def test_loose_kinds_need_no_further_look() -> None:
    node = built({"type": ["string", "object", "array", "number"], "minLength": 1, "required": ["a"]})
    assert [node.is_loose(kind) for kind in (STRING, OBJECT, ARRAY, NUMBER)] == [False, False, True, True]


def test_a_constant_becomes_structure() -> None:
    parts: list[Any] = []

    def child(part: Any, base: str, path: str) -> int:
        parts.append(part)
        return len(parts) - 1

    builder = Builder("2020-12", child, child, lambda reference, base: None)
    node = builder.constant({"a": 1, "b": [2]}, "", "/p/const")
    assert (node.kinds, node.required, node.closed) == (kinds(OBJECT), ("a", "b"), [b"a", b"b"])
    listed = builder.constant([1, 2], "", "/p/const")
    assert (listed.kinds, listed.min_items, listed.max_items, len(listed.prefix)) == (kinds(ARRAY), 2, 2, 2)
    assert builder.constant("x", "", "/p/enum").kind_keyword == "enum"
