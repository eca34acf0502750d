"""The streaming call: where a bad one is found, that a good one never is, and agreement with the final reading."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.qwen_stream import QwenStream
from detectors.qwen_xml import MarkupError, read_call
from detectors.tool_schema import ToolSchemas, Violation

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "mode": {"type": "string", "enum": ["read", "write"]},
        "count": {"type": "integer", "minimum": 1},
        "edits": {"type": "array", "items": {"type": "object", "required": ["old"], "additionalProperties": False,
                                             "properties": {"old": {"type": "string"}, "all": {"type": "boolean"}}}},
        "flag": {"type": "boolean"},
        "note": {"type": ["string", "null"], "maxLength": 5},
        "any": {},
    },
    "required": ["path"],
    "additionalProperties": False,
}  # fmt: skip
SCHEMAS = ToolSchemas.compile([("do", SCHEMA), ("open", {"type": "object"})])


def follow(text: str, size: int = 1) -> tuple[str, Violation | None]:
    """What of a body was taken when it was found bad, and why. Positions are indices of pieces."""
    stream = QwenStream(SCHEMAS)
    for i in range(0, len(text), size):
        if stream.feed(text[i : i + size], i) is not None:
            return text[: i + size], stream.violation
    return text, None


def final(text: str) -> Violation | str | None:
    try:
        call = read_call(text, SCHEMAS.parameters)
    except MarkupError as error:
        return error.reason
    return SCHEMAS.check(call.name, call.arguments)


HEAD = "\n<function=do>\n"


def parameter(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


GOOD = [
    HEAD + parameter("path", "a b") + "</function>\n",
    "<function=do><parameter=path>x</parameter></function>",
    HEAD + parameter("mode", "write") + parameter("path", "x\n\n</parameter >\n <parameter=a>\n") + "</function>",
    HEAD + parameter("path", "") + parameter("count", " 12 ") + parameter("flag", "True") + "</function>\n",
    HEAD
    + parameter("edits", '[{"old": "a"},\n {"all": false, "old": "\\u00e9"}]')
    + parameter("path", "é")
    + "</function>",
    HEAD + parameter("note", "None") + parameter("any", "[1, 2]") + parameter("path", "p") + "</function>",
    HEAD + parameter("note", "hello") + parameter("any", "free [text") + parameter("path", "p") + "</function>",
    "<function= open >\n" + parameter("x y", "1") + parameter("z", "<tool_call> and <function=") + "</function>",
    "<function=open>\n</function>\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_call_is_never_accused(text: str) -> None:
    assert final(text) is None
    for size in (1, 2, 3, 5, len(text)):
        assert follow(text, size) == (text, None)


@pytest.mark.parametrize(
    ("before", "rest", "detector", "reason"),
    [
        ("\n{", '"name": "do"}', "tool.markup", "missing_function"),
        ("<function>", "", "tool.markup", "missing_function"),
        ("<function=rm>", "\n</function>", "tool.unknown", "unknown tool"),
        (f"{HEAD}<parameter=pth>", "\nx\n</parameter>", "tool.schema", "additionalProperties"),
        (f"{HEAD}<parameter=command=", "ls>", "tool.markup", "bad_key"),
        (HEAD + parameter("path", "x") + "<parameter=path>", "\n", "tool.markup", "duplicate_parameter"),
        (f"{HEAD}s", "o <parameter=path>", "tool.markup", "text_outside"),
        (f"{HEAD}<parameter=mode>\nred", "o\n</parameter>", "tool.schema", "enum"),
        (f"{HEAD}<parameter=mode>\nread\n", "x", "tool.schema", "enum"),
        (f"{HEAD}<parameter=count>\nx", "\n</parameter>", "tool.schema", "type"),
        (f"{HEAD}<parameter=count>\n0\n</parameter>\n", "", "tool.schema", "minimum"),
        (f'{HEAD}<parameter=edits>\n[{{"old": 1', "}]\n</parameter>", "tool.schema", "type"),
        (f'{HEAD}<parameter=edits>\n[{{"n', 'ew": 1}]\n</parameter>', "tool.schema", "additionalProperties"),
        (f"{HEAD}<parameter=edits>\n[{{}}", "]", "tool.schema", "required"),
        (f"{HEAD}<parameter=edits>\n[,", "]", "tool.json", "syntax"),
        (f"{HEAD}<parameter=path>\nx\n<parameter=mode>\n", "read", "tool.markup", "malformed_markup"),
        (f"{HEAD}<parameter=path>x\n", "</parameter>", "tool.markup", "malformed_markup"),
        (f"{HEAD}<parameter=path>\nx\n<tool_call>\n<function=", "do>", "tool.markup", "nested_call"),
        (HEAD + parameter("path", "x") + "</function>\ns", "o", "tool.markup", "text_outside"),
        (HEAD + parameter("note", "longer") , "<", "tool.schema", "maxLength"),
    ],
)  # fmt: skip
def test_a_bad_call_is_found_at_its_first_bad_character(before: str, rest: str, detector: str, reason: str) -> None:
    taken, violation = follow(before + rest + "\n</function>")
    assert violation is not None, final(before + rest)
    assert (violation.detector, violation.reason) == (detector, reason)
    allowed = {len(before), len(before) + 1}  # a value's end, and a number's, need one character more
    assert len(taken) in allowed if before.endswith(("\n", "x")) else len(taken) == len(before)
    for size in (2, 3, 7, 1000):
        assert follow(before + rest + "\n</function>", size)[1] == violation


def test_an_undeclared_parameter_is_named() -> None:
    violation = follow(HEAD + parameter("secret", "1"))[1]
    assert violation is not None
    assert violation.evidence["unexpected"] == ["secret"]
    assert violation.evidence["tool"] == "do"


def test_a_violation_says_where_what_it_is_about_began() -> None:
    stream = QwenStream(SCHEMAS)
    for position, piece in enumerate(["\n<function=do>", "\n", "<para", "meter=", "sec", "ret", ">"]):
        stream.feed(piece, position)
    assert (stream.violation is not None, stream.began) == (True, 2)
    stream = QwenStream(SCHEMAS)
    for position, piece in enumerate(["\n<function=do>", "\n<parameter=mode>", "\n", "re", "d", "o"]):
        stream.feed(piece, position)
    assert (stream.violation is not None, stream.began) == (True, 4)


def test_what_is_missing_is_left_to_the_final_verdict() -> None:
    assert follow(f"{HEAD}</function>\n")[1] is None
    assert final(f"{HEAD}</function>\n") is not None


PARTS = st.sampled_from(
    ["<function=do>", "<function=open>", "<parameter=path>", "<parameter=mode>", "<parameter=any>",
     "<parameter=count>",
     "<parameter=edits>", "<parameter=note>", "<parameter=new>", "\n", "\n</parameter>\n", "</parameter>",
     "</function>",
     "read", "12", "[", "]", '{"old": "a"}', ",", "true", "None", " ", "<tool_call>", "x", "é", '"', "\u00a0"]
)  # fmt: skip


@given(st.lists(PARTS, max_size=14).map(lambda parts: HEAD + "".join(parts)), st.integers(1, 9))
def test_whoever_is_accused_is_guilty_and_the_cut_does_not_matter(text: str, size: int) -> None:
    taken, violation = follow(text)
    assert follow(text, size)[1] == violation
    if violation is not None:
        assert final(text) is not None
        for end in ("", "\n</parameter>\n</function>", "</function>"):
            assert final(taken + end) is not None


@given(st.dictionaries(st.sampled_from(list(SCHEMA["properties"])), st.text(max_size=12), max_size=4))
def test_values_of_any_text(values: dict[str, str]) -> None:
    text = HEAD + "".join(parameter(key, value) for key, value in values.items()) + "</function>"
    if follow(text)[1] is not None:
        assert final(text) is not None


@pytest.mark.parametrize("begun", ["<function=", "<function=do>\n<parameter="])
def test_a_tag_whose_name_does_not_end_is_not_followed_for_ever(begun: str) -> None:
    stream = QwenStream(SCHEMAS)
    stream.feed(begun, 0)
    for position in range(1, 1000):
        assert stream.feed("word", position) is None
    assert stream.place == "unwatched"
    assert len(stream.pending) < 1100
