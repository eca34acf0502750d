"""Injected bugs: one line, a real change, code that still compiles, and no pattern that is never used."""

from __future__ import annotations

import random
import re
from keyword import iskeyword

import pytest

from examples.embedded_model.bugs import SWAPS, Bug, candidates, misspell
from examples.embedded_model.functions import KINDS, Kind
from examples.embedded_model.tasks import Function, write

KIND_OF = {kind.name: kind for kind in KINDS}


def written(kind: Kind, seed: int = 0) -> Function:
    return write(random.Random(seed), kind, False, set())


def wrong_lines(line: str, names: list[str], seed: int = 0) -> list[tuple[str, str]]:
    return [(bug.kind, bug.wrong) for bug in candidates([line], names, random.Random(seed))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_bug_changes_exactly_one_line_of_a_function_that_still_compiles(kind: Kind) -> None:
    function = written(kind)
    found = candidates(function.body, function.names, random.Random(1))
    assert found, "a kind without a bug would never be a target"
    sound = function.source().split("\n")
    for bug in found:
        faulty = function.source(bug).split("\n")
        assert len(faulty) == len(sound)
        [changed] = [i for i in range(len(sound)) if faulty[i] != sound[i]]
        assert changed == bug.line + len(function.header)
        assert sound[changed].strip() != faulty[changed].strip()
        compile("\n".join(faulty), "faulty", "exec")


def test_every_pattern_applies_to_some_function() -> None:
    lines = [line for kind in KINDS for line in written(kind).body]
    unused = [(kind, pattern) for kind, pattern, _ in SWAPS if not any(re.search(pattern, line) for line in lines)]
    assert unused == []


def test_bugs_are_repeatable() -> None:
    function = written(KIND_OF["count_over"])
    first, second = (candidates(function.body, function.names, random.Random(7)) for _ in range(2))
    assert first == second
    assert Bug("comparison", 2, function.body[2].replace(" > ", " < ")) in first


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return a + b", {("operator", "return a - b"), ("operator", "return a * b"), ("return", "a + b")}),
        ("return a[-1]", {("index", "return a[0]")}),
        ("for i in range(1, n + 1):", {("off_by_one", "for i in range(1, n):")}),
        ("return a[:3]", {("index", "return a[3:]")}),
        ("return K <= a", {("comparison", "return K < a")}),
        ("return a.upper()", {("method", "return a.lower()")}),
    ],
)
def test_typical_bugs(line: str, expected: set[tuple[str, str]]) -> None:
    assert expected <= set(wrong_lines(line, ["a", "b", "n"]))


def test_constants_move_but_never_to_themselves() -> None:
    seen = {wrong for seed in range(40) for kind, wrong in wrong_lines("return x5 * 7", [], seed) if kind == "constant"}
    assert seen == {f"return x5 * {value}" for value in (6, 8, 9, 17)}
    zero = {wrong for seed in range(40) for kind, wrong in wrong_lines("v = 0", [], seed) if kind == "constant"}
    assert zero == {"v = 1", "v = 2", "v = 10"}


def test_a_name_is_not_spoilt_where_it_is_bound() -> None:
    for line in ("for item in rows:", "total = rows"):
        for kind, wrong in wrong_lines(line, ["item", "rows", "total"]):
            if kind in ("misspelt", "swapped_name"):
                assert wrong.startswith(line.removesuffix(":").removesuffix("rows"))


def test_a_list_is_never_exchanged_where_it_grows() -> None:
    """`for w in a: v.append(w)` with `a` for `v` would never end."""
    for line in ("v.append(w)", "v += w"):
        assert "swapped_name" not in {kind for kind, _ in wrong_lines(line, ["v", "w", "a"])}


def test_only_own_names_are_misspelt() -> None:
    assert {kind for kind, _ in wrong_lines("return sorted(rows)", ["rows"])} == {"misspelt", "return"}


@pytest.mark.parametrize("name", ["a", "is", "out", "price", "aa", "inn"])
def test_a_misspelt_name_is_another_identifier(name: str) -> None:
    for seed in range(60):
        wrong = misspell(name, random.Random(seed))
        assert wrong != name
        assert wrong.isidentifier()
        assert not iskeyword(wrong)
        assert abs(len(wrong) - len(name)) <= 1
