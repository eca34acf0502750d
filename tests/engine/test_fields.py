"""Fields of a config.json: types and ranges are checked, and every error begins with the field's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.errors import ConfigError
from engine.fields import Fields


def test_later_objects_win_but_null_is_absent() -> None:
    fields = Fields({"a": 1, "b": 2, "c": None}, {"a": 3, "b": None})
    assert (fields.size("a"), fields.size("b"), fields.size("c", 7)) == (3, 2, 7)
    assert "c" not in fields.raw


def test_values_of_the_right_kind_are_returned() -> None:
    fields = Fields({"n": 2, "x": 0.5, "f": False, "l": [0, 3], "o": {"n": 4}, "e": {}})
    assert (fields.size("n"), fields.number("n"), fields.number("x"), fields.flag("f", True)) == (2, 2.0, 0.5, False)
    assert (fields.sizes("l"), fields.sizes("none")) == ((0, 3), ())
    assert (fields.number("none", 1.5), fields.flag("none", True), fields.size("none", 3)) == (1.5, True, 3)
    inner = fields.nested("o")
    assert inner is not None and inner.size("n") == 4
    assert fields.nested("e") is None and fields.nested("none") is None
    fields.only("n", 2)
    fields.only("none", "anything")


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda f: f.size("none"), "^none: is missing"),
        (lambda f: f.size("text"), "^text: must be an integer of at least 1"),
        (lambda f: f.size("yes"), "^yes: must be an integer"),
        (lambda f: f.size("zero"), "^zero: must be an integer"),
        (lambda f: f.size("one", least=2), "^one: must be an integer of at least 2"),
        (lambda f: f.number("none"), "^none: is missing"),
        (lambda f: f.number("zero"), "^zero: must be a number above 0,"),
        (lambda f: f.number("nan"), "^nan: must be a number above 0,"),
        (lambda f: f.number("huge"), "^huge: must be a number above 0,"),
        (lambda f: f.number("one", most=0.5), "^one: must be a number above 0 and at most 0.5"),
        (lambda f: f.number("yes"), "^yes: must be a number"),
        (lambda f: f.flag("one", True), "^one: must be true or false"),
        (lambda f: f.sizes("one"), "^one: must be a list of integers"),
        (lambda f: f.sizes("mixed"), "^mixed: must be a list of integers"),
        (lambda f: f.nested("one"), "^one: must be an object"),
        (lambda f: f.nested("inner").size("n"), r"^inner\.n: must be an integer"),
        (lambda f: f.only("text", "silu"), "^text: only 'silu' is supported, found 'x'"),
    ],
)
def test_errors_name_the_field(read: Callable[[Fields], Any], reason: str) -> None:
    raw = {"text": "x", "yes": True, "zero": 0, "one": 1, "nan": float("nan"), "huge": 10**400, "mixed": [1, -1]}
    with pytest.raises(ConfigError, match=reason):
        read(Fields({**raw, "inner": {"n": "4"}}))
