"""Policy files: what is written is what holds, and mistakes are named with what to write instead."""

from __future__ import annotations

from dataclasses import fields

import pytest

from detectors.finding import Grade
from policies.policy import Policy
from policies.rule_file import PolicyFile, PolicyProblem, parse, shipped, shipped_text
from policies.rules import Rule, When, never_matching, unknown_detectors


def problem(text: str) -> str:
    with pytest.raises(PolicyProblem) as caught:
        parse(text)
    return str(caught.value)


def test_the_shipped_file_says_what_the_policy_defaults_to() -> None:
    written = {field.name for field in fields(Policy)} - {"rules", "override"}
    assert set(shipped().settings) == written
    assert Policy(**shipped().settings) == Policy()
    assert Policy().rules == shipped().rules


def test_all_shipped_rules_can_match() -> None:
    assert never_matching(shipped().rules) == []
    assert unknown_detectors(shipped().rules) == []
    assert shipped().rules[0].when == When(at_least=Grade.SUSPECT, exactly=Grade.SUSPECT)
    assert shipped().rules[-1].when == When(at_least=Grade.FALLBACK)


def test_an_empty_file_is_the_shipped_policy() -> None:
    assert parse("") == PolicyFile({}, (), (), shipped_rules=True, observe_by_header=False)


def test_a_rule_with_everything() -> None:
    file = parse("""
        shipped_rules = false
        [[rule]]
        name = "edits"
        when = { detector = ["tool.*", "loop.*"], at_least = "fallback", channel = "tool", tool = "e*", mode = "*/k*" }
        do = ["rewind", "repair", "end"]
        accuse = "kv"
        [[rule]]
        name = "all"
        when.exactly = "abort"
        do = ["none"]
    """)
    when = When(("tool.*", "loop.*"), Grade.FALLBACK, None, ("tool",), ("e*",), ("*/k*",))
    assert file.rules == (
        Rule("edits", when, ("rewind", "repair", "end"), "kv"),
        Rule("all", When(at_least=Grade.ABORT, exactly=Grade.ABORT), ("none",)),
    )
    assert not file.shipped_rules


def test_a_rule_is_not_for_suspicions_unless_it_says_so() -> None:
    rules = parse(RULE + 'when.detector = "loop.*"\ndo = ["end"]').rules
    assert rules[0].when.grades == {Grade.FALLBACK, Grade.ABORT}
    rules = parse(RULE + 'when.at_least = "suspect"\ndo = ["end"]').rules
    assert rules[0].when.grades == set(Grade)


def test_an_override_with_everything() -> None:
    (override,) = parse("""
        [[override]]
        name = "night"
        model = "qwen*"
        route = ["openai.chat"]
        tool = "bash"
        header = { X-Team = "red*" }
        max_rewinds = 1
        hold_call_s = 60
        [[override.rule]]
        name = "let-it-loop"
        when.detector = "loop.*"
        do = ["none"]
    """).overrides
    assert (override.models, override.routes, override.tools) == (("qwen*",), ("openai.chat",), ("bash",))
    assert override.headers == (("x-team", "red*"),)
    assert override.settings == {"max_rewinds": 1, "hold_call_s": 60.0}
    assert [rule.name for rule in override.rules] == ["let-it-loop"]


RULE = '[[rule]]\nname = "mine"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_rewind = 1", "max_rewind: there is no such key; did you mean 'max_rewinds'?"),
        ("colour = 1", "colour: there is no such key; known keys: action, max_rewinds"),
        (RULE + 'do = ["rewnd"]', "rule[0] (mine).do[0]: there is no 'rewnd'; did you mean 'rewind'?"),
        (
            RULE + 'do = ["rewind"]',
            "rule[0] (mine).do: 'rewind' is not always possible, so say what comes then: add one",
        ),
        (RULE + 'do = ["end", "rewind"]', "'end' is always possible, so nothing after it can happen; put it last"),
        (RULE + "do = []", "rule[0] (mine).do"),
        (RULE + 'do = "end"', 'rule[0] (mine).do: is a list; write ["one", "two"]'),
        (RULE, "rule[0] (mine).do: is missing; write it"),
        ('[[rule]]\ndo = ["end"]', "rule[0].name: is missing"),
        ('[[rule]]\nname = "a b"\ndo = ["end"]', "rule[0] (a b).name: 'a b' is no name; use at most 64 letters"),
        (RULE + 'do = ["end"]\nacuse = "kv"', "rule[0] (mine).acuse: there is no such key; did you mean 'accuse'?"),
        (
            RULE + 'do = ["end"]\naccuse = "drafts"',
            "rule[0] (mine).accuse: there is no 'drafts'; use one of: speculation",
        ),
        (RULE + 'do = ["end"]\nwhen.detectr = "x"', "rule[0] (mine).when.detectr: there is no such key; did you mean"),
        (RULE + 'do = ["end"]\nwhen.channel = "txt"', "there is no 'txt'; did you mean 'text'?"),
        (RULE + 'do = ["end"]\nwhen.detector = 3', "rule[0] (mine).when.detector: is a list"),
        (RULE + 'do = ["end"]\nwhen = "loop"', "rule[0] (mine).when: is a table; write { key = value }"),
        (
            RULE + 'do = ["end"]\nwhen = {at_least = "abort", exactly = "abort"}',
            "has both at_least and exactly; leave one",
        ),
        (f'{RULE}do = ["end"]\n{RULE}do = ["end"]', "two rules are called 'mine'; incidents name them, so give one"),
        ('[[rule]]\nname = "loop"\ndo = ["end"]', "rule 'loop': a shipped rule has this name and comes after yours"),
        ('[rule]\nname = "x"', "rule: is a list"),
        ('[[override]]\nname = "x"\n[[override]]\nname = "x"', "two overrides are called 'x'"),
        ('[[override]]\nmodel = "x"', "override[0].name: is missing"),
        ('[[override]]\nname = "x"\nmodl = "x"', "override[0] (x).modl: there is no such key; did you mean 'model'?"),
        ('[[override]]\nname = "x"\nheader = "x"', "override[0] (x).header: is a table"),
        (
            '[[override]]\nname = "x"\nheader.x-a = "*"\naction = "observe"',
            "override 'x' lets a header switch the guard to observing; write observe_by_header = true",
        ),
        ('[[override]]\nname = "x"\nby_header = false', "override[0] (x): is for nobody: it matches no request"),
        ('[[override]]\nname = "x"\nby_header = 1', "override[0] (x).by_header: 1 is not true or false; write one"),
        ("max_rewinds = true", "max_rewinds: True is not a whole number; write one"),
        ("repair = 1", "repair: 1 is not true or false; write one"),
        ("max_rewinds = 17", "max_rewinds: Input should be less than or equal to 16"),
        ("hold_call_s = nan", "hold_call_s: "),
        ("session_hours = 0", "session_hours: Input should be greater than 0"),
        ("action = 'stop'", "action: there is no 'stop'; use one of: enforce, observe"),
        ("= 1", "cannot be read as TOML: "),
    ],
)
def test_mistakes_are_named_with_the_remedy(text: str, words: str) -> None:
    assert words in problem(text)


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problem("max_rewind = 1\nrepair = 3\nsession_hours = -1").split("\n")) == 3


def test_the_shipped_file_can_be_copied_and_used() -> None:
    file = parse(shipped_text())
    assert file == shipped()


def test_a_file_that_nests_too_deeply_is_refused() -> None:
    with pytest.raises(PolicyProblem, match="nested too deeply"):
        parse("x = " + "[" * 3000 + "]" * 3000)
