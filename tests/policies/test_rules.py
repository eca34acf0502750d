"""Rules as data: what they match, and when one hides another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from policies.modes import PLAIN, DecodeMode
from policies.rules import DETECTORS, Rule, When, first_match, never_matching, unknown_detectors

FAST = DecodeMode("mtp", "k4v4")
SOURCES = [Path(__file__).parents[2] / "detectors", Path(__file__).parents[2] / "proxy"]


def finding(detector: str = "tool.schema", grade: Grade = Grade.FALLBACK, channel: str = "tool:3") -> Finding:
    return Finding(detector, grade, channel, 9, 5, "")


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        (When(), True),
        (When(detectors=("tool.*",)), True),
        (When(detectors=("loop.*", "tool.schema")), True),
        (When(detectors=("tool",)), False),
        (When(at_least=Grade.FALLBACK), True),
        (When(at_least=Grade.ABORT), False),
        (When(exactly=Grade.FALLBACK), True),
        (When(exactly=Grade.SUSPECT), False),
        (When(channels=("tool",)), True),
        (When(channels=("text", "thinking")), False),
        (When(tools=("edit_*",)), True),
        (When(tools=("Edit*",)), False),
        (When(modes=("*/k4v4",)), True),
        (When(modes=("plain",)), False),
        (When(detectors=("tool.*",), tools=("rm",)), False),
    ],
)
def test_all_fields_must_hold(when: When, matches: bool) -> None:
    assert when.matches(finding(), FAST, "edit_file") is matches


def test_a_rule_for_a_tool_is_not_for_what_concerns_none() -> None:
    assert not When(tools=("edit",)).matches(finding("loop.period", channel="text"), PLAIN, "")
    assert When(tools=("*",)).matches(finding("loop.period", channel="text"), PLAIN, "")


def test_the_first_match_speaks() -> None:
    rules = (Rule("a", When(("loop.*",)), ("hold",)), Rule("b", When(), ("end",)), Rule("c", When(), ("none",)))
    assert first_match(rules, finding(), FAST, "") is rules[1]
    assert first_match(rules[:1], finding(), FAST, "") is None


def hidden(*whens: When) -> list[tuple[str, str]]:
    rules = [Rule(str(index), when, ("none",)) for index, when in enumerate(whens)]
    return [(rule.name, before.name) for rule, before in never_matching(rules)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (When(), When(("tool.schema",))),
        (When(("tool.*",)), When(("tool.schema", "tool.json"))),
        (When(("tool.*", "loop.*")), When(("loop.p*",))),
        (When(("*",)), When(("tool.?",))),
        (When(at_least=Grade.FALLBACK), When(exactly=Grade.ABORT)),
        (When(channels=("text", "tool")), When(channels=("tool",))),
        (When(("a[b]",)), When(("a[b]",))),
        (When(modes=("*/k4v4",)), When(modes=("mtp/k4v4", "ngram/k4v4"))),
    ],
)
def test_a_rule_that_never_matches_is_seen(first: When, second: When) -> None:
    assert hidden(first, second) == [("1", "0")]
    assert hidden(When(("x.*",)), first, second) == [("2", "1")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (When(("tool.schema",)), When(("tool.*",))),
        (When(("loop.?",)), When(("loop.*",))),
        (When(("*a*",)), When(("[ab]",))),
        (When(at_least=Grade.ABORT), When()),
        (When(exactly=Grade.SUSPECT), When(exactly=Grade.ABORT)),
        (When(channels=("text",)), When()),
        (When(tools=("edit",)), When()),
        (When(modes=("plain",)), When(modes=("*",))),
    ],
)
def test_a_rule_that_can_match_is_not_called_hidden(first: When, second: When) -> None:
    assert hidden(first, second) == []


globs = st.lists(st.text("ab*?", min_size=1, max_size=3), max_size=2).map(tuple)


@given(globs, globs, st.text("ab", max_size=4))
def test_what_a_covered_rule_matches_its_cover_matches(first: tuple[str, ...], second: tuple[str, ...], x: str) -> None:
    cover, covered = When(detectors=first), When(detectors=second)
    if cover.covers(covered) and covered.matches(finding(x), PLAIN, ""):
        assert cover.matches(finding(x), PLAIN, "")


def test_rules_for_nobody_are_seen() -> None:
    rules = (Rule("a", When(("loop.perido", "loop.period")), ("none",)), Rule("b", When(("drift.*",)), ("none",)))
    assert unknown_detectors(rules) == [(rules[0], "loop.perido")]


def test_the_list_of_detectors_is_complete() -> None:
    """Add a new detector's name to `policies.rules.DETECTORS`."""
    names = re.compile(r'"((?:tool|loop|struct|text|drift|stall|budget)\.[a-z_]+)"')
    files = [
        file for folder in SOURCES for file in folder.rglob("*.py") if not {"wire", "bench_detectors"} & {*file.parts}
    ]
    said = {name for file in files for name in names.findall(file.read_text(encoding="utf-8"))}
    of_lanes = re.compile(r'Finding\(\s*"(lane\.[a-z_]+)"')  # log lines have such names too
    said |= {name for file in files for name in of_lanes.findall(file.read_text(encoding="utf-8"))}
    assert said <= set(DETECTORS)
    assert set(DETECTORS) <= said
