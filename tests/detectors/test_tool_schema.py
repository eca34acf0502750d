"""Verdicts on calls: classes and evidence, declarations that are refused, a second opinion by jsonschema."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
from hypothesis import given
from hypothesis import strategies as st

from detectors.json_stream.trip import Trip
from detectors.tool_schema import BadSchema, ToolSchemas, Violation

EDIT = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "edits": {"type": "array", "items": {"required": ["old"]}}},
    "required": ["path"],
    "additionalProperties": False,
}


def check(schema: dict[str, Any], arguments: Any) -> Violation | None:
    return ToolSchemas.compile([("edit", schema)]).check("edit", arguments)


def test_a_valid_call_passes() -> None:
    assert check(EDIT, {"path": "a", "edits": [{"old": 1}]}) is None


@pytest.mark.parametrize("empty", [None, "", {}])
def test_empty_arguments_are_an_empty_object(empty: Any) -> None:
    assert check({}, empty) is None
    violation = check(EDIT, empty)
    assert violation is not None
    assert violation.reason == "required"


@pytest.mark.parametrize(
    ("arguments", "keyword", "instance_path", "schema_path"),
    [
        ({}, "required", "", "/required"),
        ({"path": 1}, "type", "/path", "/properties/path/type"),
        ({"path": "", "x/y": 1}, "additionalProperties", "", "/additionalProperties"),
        ({"path": "", "edits": [{"old": 1}, {}]}, "required", "/edits/1", "/properties/edits/items/required"),
        ([], "type", "", ""),
    ],
)
def test_a_violation_says_where(arguments: Any, keyword: str, instance_path: str, schema_path: str) -> None:
    violation = check(EDIT, arguments)
    assert violation is not None
    assert (violation.detector, violation.reason) == ("tool.schema", keyword)
    assert violation.evidence["tool"] == "edit"
    assert violation.evidence["instance_path"] == instance_path
    assert violation.evidence["schema_path"] == schema_path


def test_evidence_names_what_is_missing_or_too_much() -> None:
    missing, unexpected = check(EDIT, {}), check(EDIT, {"path": "", "secret": 1})
    assert missing is not None
    assert missing.evidence["missing"] == "path"
    assert unexpected is not None
    assert unexpected.evidence["unexpected"] == ["secret"]


def test_an_unknown_tool_is_its_own_class() -> None:
    violation = ToolSchemas.compile([("edit", EDIT)]).check("delete", {})
    assert violation is not None
    assert violation.detector == "tool.unknown"


def test_a_violation_becomes_a_finding() -> None:
    violation = check(EDIT, {})
    assert violation is not None
    finding = violation.finding("tool:0", 20, 5)
    assert (finding.detector, finding.channel, finding.position, finding.began) == (
        "tool.schema",
        "tool:0",
        20,
        5,
    )


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "objekt"}, "/type"),
        ({"properties": {"a/b": {"pattern": "("}}}, "/properties/a~1b/pattern"),
        ({"properties": 3}, "/properties"),
        ({"properties": {"a": {"$ref": "http://192.0.2.1/x.json"}}}, ""),
        ({"properties": {"a": {"$ref": "file:///etc/hostname"}}}, ""),
        ({"$ref": "#/$defs/none"}, ""),
        ({"$schema": "https://example.org/unknown"}, ""),
        ({"const": float("nan")}, ""),
    ],
)
def test_a_declaration_that_is_no_schema_is_refused(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(BadSchema, match="'edit'") as caught:
        check(schema, {})
    assert (caught.value.tool, caught.value.path) == ("edit", path)


def test_no_reference_is_ever_fetched(tmp_path: Path) -> None:
    """Both would resolve, if they were followed."""
    (tmp_path / "any.json").write_text("{}")
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for target in ((tmp_path / "any.json").as_uri(), f"http://127.0.0.1:{server.server_port}/any.json"):
                with pytest.raises(BadSchema):
                    check({"properties": {"a": {"$ref": target}}}, {})
        finally:
            server.shutdown()
            thread.join()
    assert asked == []


def test_the_draft_is_that_of_the_schema() -> None:
    tuple_items = {"properties": {"a": {"items": [{"type": "string"}]}}}
    draft7 = {"$schema": "http://json-schema.org/draft-07/schema#", **tuple_items}
    assert check(draft7, {"a": ["x", 1]}) is None
    assert check(draft7, {"a": [1]}) is not None
    with pytest.raises(BadSchema):
        check(tuple_items, {})


def test_format_only_annotates_in_every_draft() -> None:
    schema = {"properties": {"a": {"format": "email"}}}
    assert check(schema, {"a": "x"}) is None
    assert check({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, {"a": "x"}) is None


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(?=a)(a|aa)+$\\1", "(x+x+)+y"])
def test_a_hostile_pattern_ends_in_a_verdict(pattern: str) -> None:
    violation = check({"properties": {"a": {"pattern": pattern}}}, {"a": "a" * 5000 + "b"})
    assert violation is not None
    assert violation.reason == "pattern"


def test_a_trip_becomes_a_violation_of_its_class() -> None:
    schemas = ToolSchemas.compile([("edit", EDIT)])
    trip = Trip("schema", "type", "/path", "/properties/path/type", 9, "exact")
    violation = schemas.tripped("edit", trip)
    assert (violation.detector, violation.reason, violation.evidence["byte"]) == ("tool.schema", "type", 9)
    assert schemas.tripped("edit", trip, "x").evidence["unexpected"] == ["x"]
    kinds = [
        Trip(kind, "", "", "", 0, "exact") for kind in ("syntax", "duplicate_key", "limit_depth", "whitespace_run")
    ]
    assert [schemas.tripped("edit", trip).detector for trip in kinds] == ["tool.json"] * 2 + ["tool.limit"] * 2


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "ab", 1.5, 2.0])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPES = ["string", "integer", "number", "boolean", "null", "array", "object"]


def extend(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=2, unique=True),
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "minimum": st.integers(-2, 2),
            "maxLength": st.integers(0, 2),
            "minItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "pattern": st.sampled_from(["^a", "b$", "^$"]),
            "$ref": st.just("#/$defs/d"),
        },
    )


SCHEMAS = st.recursive(st.booleans() | extend(st.booleans()), extend, max_leaves=5)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@given(extend(SCHEMAS), extend(st.booleans()), OBJECTS)
def test_jsonschema_is_of_the_same_opinion(schema: dict[str, Any], shared: dict[str, Any], value: Any) -> None:
    shared.pop("$ref", None)
    schema = {**schema, "$defs": {"d": shared}}
    reference = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    assert (check(schema, value) is None) is reference.is_valid(value)
