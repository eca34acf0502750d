"""Reading a body: JSON and its limits, errors that name the field, text in parts, broken history."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RequestError
from proxy.wire.body import (
    MAX_DEPTH,
    Loose,
    arguments_of,
    brief,
    check_prefill,
    path,
    read_json,
    read_model,
    reminder,
    session_of,
    stops_of,
    text_of,
)
from tests.proxy.wire.refusals import JSON, refused


def test_an_object() -> None:
    assert read_json(b'{"a": [1, 2.5, null, "\\u00fc"]}') == {"a": [1, 2.5, None, "ü"]}


@pytest.mark.parametrize(
    "raw",
    [b"", b" ", b"{", b"[1]", b"1", b"null", b'"x"', b"{'a': 1}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\xff"}'],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    assert "the body" in refused(lambda: read_json(raw)).message


def test_depth_is_limited() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)

    assert read_json(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 5000):
        refused(lambda levels=levels: read_json(nested(levels)))  # type: ignore[misc]
    refused(lambda: read_json(b'{"a": ' + b"[" * 100_000))


def test_half_an_emoji_does_not_end_a_session() -> None:
    assert read_json(b'{"a": "x\\ud83d"}') == {"a": "x\ufffd"}
    assert read_json(b'{"\\ude00": ["\\ud83d\\ude00"]}') == {"\ufffd": ["😀"]}


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    try:
        assert isinstance(read_json(raw), dict)
    except RequestError as error:
        orjson.dumps(error.message)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_any_json_object_is_read_as_it_is(value: dict[str, Any]) -> None:
    assert read_json(json.dumps(value).encode()) == value


class Inner(Loose):
    kind: str


class Outer(Loose):
    inner: list[Inner] | None = None
    many: str | list[str] | None = None


def test_unknown_keys_are_kept_by_name() -> None:
    assert read_model(Outer, {"zeta": 1, "inner": [], "alpha": 2}).unknown == ["alpha", "zeta"]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"inner": [{"kind": "a"}, {"kind": 3}]}, "inner[1].kind"),
        ({"inner": [{}]}, "inner[0].kind"),
        ({"inner": {"kind": "a"}}, "inner"),
        ({"many": 3}, "many"),
        ({"many": ["a", None]}, "many"),
    ],
)
def test_the_first_error_names_its_field(value: dict[str, Any], field: str) -> None:
    error = refused(lambda: read_model(Outer, value))
    assert error.param == field
    assert error.message.startswith(f"{field}: ")


def test_path() -> None:
    assert path(("messages", 2, "content")) == "messages[2].content"
    assert path(("stop", "list[str]", 0)) == "stop[0]"
    assert path(()) == "body"


def test_text_of() -> None:
    assert text_of(None, "c") == ""
    assert text_of("as it is\n", "c") == "as it is\n"
    assert text_of([], "c") == ""
    assert text_of([{"type": "text", "text": "a", "cache_control": {}}, "b"], "c") == "a\nb"


@pytest.mark.parametrize(
    ("content", "field", "word"),
    [
        (3, "c", "string or a list"),
        ({"type": "text", "text": "x"}, "c", "string or a list"),
        ([{"type": "text", "text": "x"}, 7], "c[1]", "'text'"),
        ([{"type": "text"}], "c[0]", "string `text`"),
        ([{"type": "text", "text": None}], "c[0]", "string `text`"),
        ([{"type": "image_url", "image_url": {}}], "c[0]", "text only; remove"),
        ([{"type": "document"}], "c[0]", "text only; remove"),
    ],
)
def test_content_that_is_no_text(content: Any, field: str, word: str) -> None:
    error = refused(lambda: text_of(content, "c"))
    assert error.param == field
    assert word in error.message


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (None, {}),
        ("", {}),
        ("{}", {}),
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ('{"a": ', {"__raw": '{"a": '}),
        ("[1]", {"__raw": "[1]"}),
        ("null", {"__raw": "null"}),
        ([1], {"__raw": "[1]"}),
        (5, {"__raw": "5"}),
    ],
)
def test_arguments_of_past_calls(raw: Any, value: dict[str, Any]) -> None:
    assert arguments_of(raw) == value


@given(JSON)
def test_arguments_are_always_an_object(raw: Any) -> None:
    assert isinstance(arguments_of(raw), dict)


def test_stops() -> None:
    assert stops_of(None, "stop") == ()
    assert stops_of("a", "stop") == ("a",)
    assert stops_of(["a", "b"], "stop") == ("a", "b")
    assert len(stops_of(["x"] * 16, "stop")) == 16
    assert refused(lambda: stops_of(["x"] * 17, "stop")).param == "stop"


def test_an_empty_stop_string_is_refused() -> None:
    for bad in ("", ["a", ""]):
        assert "must not be empty" in refused(lambda bad=bad: stops_of(bad, "stop")).message  # type: ignore[misc]


def test_prefill_is_refused() -> None:
    check_prefill("user", "messages[0]")
    check_prefill("tool", "messages[0]")
    error = refused(lambda: check_prefill("assistant", "messages[3]"))
    assert error.param == "messages[3]"
    assert "add a user message after it" in error.message


def test_session_keys_are_safe_ids() -> None:
    assert session_of("agent-1.a_b") == "agent-1.a_b"
    assert session_of("two\r\nlines") == session_of("two\r\nlines") != session_of("other lines")
    assert session_of("x" * 500).startswith("key-")
    assert [session_of(value) for value in (None, "", 3, ["a"])] == ["", "", "", ""]


def test_long_values_are_cut() -> None:
    assert brief({"a": 1}) == "{'a': 1}"
    assert brief("x" * 1000) == "'" + "x" * 58 + "..."


def test_a_reminder_is_marked() -> None:
    assert reminder("be brief") == "<system-reminder>\nbe brief\n</system-reminder>"
