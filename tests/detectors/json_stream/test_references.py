"""Which schema a reference names, and that unknown ones stay unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detectors.json_stream.references import ROOT_BASE, References, own_base

LOCAL: dict[str, Any] = {"$defs": {"a/b": {"type": "null"}, "c d": [{"x": 1}, {"x": 2}]}}


def references(schema: Any, draft: str = "2020-12") -> References:
    return References(schema, json.dumps(schema), draft, [])


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", LOCAL),
        ("#/$defs/a~1b", {"type": "null"}),
        ("#/$defs/c%20d/1", {"x": 2}),
        ("#/$defs/none", None),
        ("#/$defs/c%20d/2", None),
        ("other.json", None),
    ],
)
def test_pointers(reference: str, found: Any) -> None:
    target = references(LOCAL).find(reference, ROOT_BASE)
    assert (target[0] if target is not None else None) == found


def test_the_same_part_is_the_same_object() -> None:
    target = references(LOCAL).find("#/$defs/a~1b", ROOT_BASE)
    assert target is not None
    assert target[0] is LOCAL["$defs"]["a/b"]


def test_identifiers_change_what_a_reference_is_relative_to() -> None:
    schema = {"$id": "http://e/root", "$defs": {"i": {"$id": "inner", "$defs": {"x": {"type": "null"}}}}}
    target = references(schema).find("#/$defs/x", "http://e/inner")
    assert target is not None
    assert (target[0], target[1]) == ({"type": "null"}, "http://e/inner")
    assert references(schema).find("#/$defs/x", "http://e/root") is None


def test_own_base() -> None:
    assert own_base({"$id": "b"}, "http://e/a", "2020-12") == "http://e/b"
    assert own_base({"$id": "#b"}, "http://e/a", "draft-07") == "http://e/a"
    assert own_base({"$id": "b", "$ref": "#"}, "http://e/a", "draft-07") == "http://e/a"
    assert own_base(True, "http://e/a", "2020-12") == "http://e/a"
