"""Calls that must be valid: refused at the first character that leads nowhere, never stuck, valid at the end."""

from __future__ import annotations

import random
from typing import Any

import pytest

from detectors.constraint.call import MOST_BLANK, MOST_BLANK_IN_JSON, CallConstraint
from detectors.qwen_xml import read_call
from detectors.tool_schema import ToolSchemas

EDIT = {
    "type": "object",
    "properties": {"old": {"type": "string", "maxLength": 3}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["old"],
    "additionalProperties": False,
}
DO: dict[str, Any] = {
    "type": "object",
    "properties": {
        "path": {"enum": ["a/b", "größe", "a/bc"]},
        "mode": {"type": "string", "minLength": 2, "maxLength": 3},
        "count": {"type": "integer", "minimum": 1, "maximum": 40},
        "flag": {"type": "boolean"},
        "edits": {"type": "array", "items": EDIT, "minItems": 1, "maxItems": 2},
        "any": {"type": ["string", "null"], "maxLength": 3},
    },
    "required": ["path", "edits"],
    "additionalProperties": False,
}
OPEN = {"properties": {"a": {"type": "integer"}, "m": {"type": "object"}}, "required": ["a"]}
SCHEMAS = ToolSchemas.compile([("do", DO), ("done", {"additionalProperties": False}), ("do_open", OPEN)])
NAMES = ("do", "done", "do_open")
HEAD = "\n<function=do>\n"
PATH = "<parameter=path>\na/b\n</parameter>\n"
EDITS = '<parameter=edits>\n[{"old": "x"}]\n</parameter>\n'
TAIL = "</function>\n"


def made(names: tuple[str, ...] = NAMES, strict: tuple[str, ...] = NAMES) -> CallConstraint:
    return CallConstraint(SCHEMAS, names, frozenset(strict))


def refused_at(text: str, size: int = 1) -> int | None:
    """Index of the piece's first character at which `text` leads nowhere."""
    constraint = made()
    for at in range(0, len(text), size):
        if not constraint.feed(text[at : at + size]):
            return at
    return None


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "body",
    [
        HEAD + PATH + EDITS + TAIL,
        HEAD + EDITS + "<parameter=any>\nnull\n</parameter>\n" + PATH + TAIL,
        HEAD + PATH.replace("a/b", "größe") + EDITS + TAIL,
        HEAD + PATH + EDITS.replace('"x"', '"\\n"') + "<parameter=mode>\n\nx\n</parameter>\n" + TAIL,
        "\n<function=done>\n" + TAIL,
        "\n<function=do_open>\n<parameter=b>\nany </param\n\n</parameter>\n<parameter=a>\n7\n</parameter>\n" + TAIL,
    ],
)
def test_valid_calls_are_allowed_however_they_are_cut(body: str, size: int) -> None:
    assert refused_at(body, size) is None


@pytest.mark.parametrize(
    ("before", "bad"),
    [
        ("\n<function=do", "x"),
        ("\n<function=do", "\n"),
        ("", "<"),
        ("\n", "x"),
        (HEAD + "<parameter=", "x"),
        (HEAD + "<parameter=path", "s"),
        (HEAD + "</"[:1], "/"),  # required parameters are missing
        (HEAD + PATH + "<parameter=", "p"),  # the only one with that letter is there already
        (HEAD + "<parameter=path>", "a"),
        (HEAD + "<parameter=path>\n", "b"),
        (HEAD + "<parameter=path>\na/", "\n"),
        (HEAD + "<parameter=path>\na/b", "d"),
        (HEAD + "<parameter=path>\na/b\n", "c"),
        (HEAD + "<parameter=path>\ngr", "\u00fa"),
        (HEAD + "<parameter=count>\n", "0"),
        (HEAD + "<parameter=count>\n40", "1"),
        (HEAD + "<parameter=flag>\ntru", "\n"),
        (HEAD + "<parameter=flag>\n", "T"),
        (HEAD + '<parameter=edits>\n[{"old": "x"}', "\n<"[1:]),
        (HEAD + '<parameter=edits>\n[{"old": "x"}, {"old": "y"}', ","),
        (HEAD + "<parameter=mode>\nabc", "d"),
        (HEAD + PATH + EDITS + TAIL, "x"),
        ("\n<function=done>\n", "<p"),
        ('\n<function=do_open>\n<parameter=m>\n{"x": 1', "\n<"),  # the object is open, so a key could follow in it
    ],
)
def test_what_leads_nowhere_is_refused_at_once(before: str, bad: str) -> None:
    assert refused_at(before) is None
    assert refused_at(before + bad) is not None
    constraint = made()
    assert constraint.feed(before) if before else True
    assert not constraint.feed(bad)


@pytest.mark.parametrize(
    "body",
    [HEAD + PATH + TAIL, HEAD + EDITS + TAIL, HEAD + PATH + '<parameter=edits>\n[{"old": "x"}\n</parameter>\n' + TAIL],
)
def test_a_token_that_spans_it_all_is_judged_by_its_end(body: str) -> None:
    constraint = made()
    assert not constraint.feed(body)
    assert not constraint.complete


def test_white_space_comes_to_an_end() -> None:
    assert refused_at(HEAD + PATH + "\n" * 99) == len(HEAD + PATH) + MOST_BLANK - 1
    value = HEAD + "<parameter=edits>\n"
    assert refused_at(value + " " * 999) == len(value) + MOST_BLANK_IN_JSON
    whole = HEAD + PATH + EDITS.removesuffix("\n</parameter>\n") + " " * MOST_BLANK_IN_JSON
    assert refused_at(whole + "\n</parameter>\n" + TAIL) is None
    assert refused_at(whole + "\n\n") == len(whole) + 1


def test_only_some_functions_and_only_the_strict_ones_arguments() -> None:
    named = made(names=("done",))
    assert not named.feed("\n<function=do>")
    loose = made(strict=("done",))
    assert loose.feed("\n<function=do>")
    assert loose.free
    assert loose.feed("whatever </")


def test_the_beginning_of_a_character() -> None:
    for before, tail, possible in [
        (HEAD + "<parameter=path>\ngr", "ö".encode()[:1], True),
        (HEAD + "<parameter=path>\ngr", "é".encode()[:1], True),  # the same first byte
        (HEAD + "<parameter=path>\ngr", "€".encode()[:2], False),
        (HEAD + "<parameter=mode>\na", "€".encode()[:2], True),
        (HEAD + "<parameter=mode>\nabc", "€".encode()[:2], False),
        (HEAD, "€".encode()[:1], False),
        (HEAD + "<parameter=count>\n1", "€".encode()[:1], False),
    ]:
        constraint = made()
        constraint.feed(before)
        assert constraint.clone().feed("", tail) is possible, (before, tail)


def test_a_clone_is_independent() -> None:
    constraint = made()
    constraint.feed(HEAD + "<parameter=path>\na/")
    other = constraint.clone()
    assert not other.feed("x")
    assert constraint.feed("b\n</parameter>\n" + EDITS + TAIL)
    assert constraint.complete


PIECES = (
    *"abcdefghijklmnopqrstuvwxyzßö/<>=_\n \"{}[],:0123456789.-",
    "\n</parameter>\n", "</function>\n", "<parameter=", ">\n", '"old"', '"n": ', "true", "null", "function", "größe",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_a_walk_over_what_is_allowed_is_never_stuck_and_ends_in_a_valid_call(seed: int) -> None:
    """Random text of allowed pieces. Strings are short and keys closed, so that every walk comes to its end."""
    rng = random.Random(seed)
    constraint, body = made(names=("do", "done")), ""
    for _ in range(4000):
        if constraint.complete:
            break
        pieces = list(PIECES)
        rng.shuffle(pieces)
        pieces.sort(key=lambda piece: piece.startswith((" ", "\n")) and rng.random() < 0.8 and len(piece) == 1)
        for piece in pieces:
            tried = constraint.clone()
            if tried.feed(piece):
                constraint, body = tried, body + piece
                break
        else:
            pytest.fail(f"nothing can follow {body!r}")
    assert constraint.complete
    call = read_call(body, SCHEMAS.parameters)
    assert SCHEMAS.check(call.name, call.arguments) is None
