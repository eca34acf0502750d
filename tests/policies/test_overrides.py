"""Overrides: the first that matches holds, field by field, and a client cannot disarm the guard."""

from __future__ import annotations

import pytest

from policies.overrides import HEADER, Overrides, PolicyRefused, Traits, effective
from policies.policy import Policy
from policies.rule_file import parse, shipped

FILE = """
max_rewinds = 4
[[rule]]
name = "base"
when.detector = "loop.*"
do = ["hold"]

[[override]]
name = "shell"
tool = ["bash", "sh*"]
max_rewinds = 1

[[override]]
name = "chat"
model = "qwen*"
route = "openai.*"
by_header = true
repair = true
[[override.rule]]
name = "own"
when.detector = "loop.*"
do = ["none"]

[[override]]
name = "red"
header = { X-Team = "red-?" }
session_rewinds = 3

[[override]]
name = "trial"
action = "observe"
"""
BASE, OVERRIDES = effective(parse(FILE), {})


def chosen(route: str = "anthropic.messages", tools: tuple[str, ...] = (), model: str = "m", **headers: str) -> Policy:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return OVERRIDES.choose(BASE, Traits((model, "id"), route, tools, given))


def test_without_a_match_the_file_holds() -> None:
    assert chosen() is BASE
    assert (BASE.max_rewinds, BASE.override) == (4, "")
    assert [rule.name for rule in BASE.rules] == ["base", *(rule.name for rule in shipped().rules)]


def test_a_file_may_leave_the_shipped_rules_away() -> None:
    assert effective(parse("shipped_rules = false"), {})[0].rules == ()


def test_one_of_the_declared_tools_is_enough() -> None:
    assert chosen(tools=("ls", "bash")).override == "shell"
    assert chosen(tools=("ls", "shell2")).max_rewinds == 1
    assert chosen(tools=("ls",)) is BASE
    assert chosen(tools=()) is BASE


def test_model_and_route_must_both_match() -> None:
    assert chosen("openai.chat", model="qwen3").override == "chat"
    assert chosen("openai.responses", model="qwen3").repair
    assert chosen("openai.chat", model="other") is BASE
    assert chosen("anthropic.messages", model="qwen3") is BASE


def test_either_name_of_the_model_counts() -> None:
    policy = OVERRIDES.choose(BASE, Traits(("alias", "qwen3-8b"), "openai.chat"))
    assert policy.override == "chat"


def test_headers_match_by_value() -> None:
    assert chosen(x_team="red-1").session_rewinds == 3
    assert chosen(x_team="red-12") is BASE
    assert chosen(x_tea="red-1") is BASE


def test_the_first_match_wins() -> None:
    assert chosen("openai.chat", ("bash",), "qwen3", x_team="red-1").override == "shell"


def test_what_an_override_does_not_write_is_the_files() -> None:
    policy = chosen("openai.chat", model="qwen3")
    assert (policy.max_rewinds, policy.repair, policy.action) == (4, True, "enforce")
    assert [rule.name for rule in policy.rules][:2] == ["own", "base"]


def test_a_client_picks_by_name_whatever_else_matches() -> None:
    assert chosen(tools=("bash",), x_specguard_policy="chat").override == "chat"
    assert HEADER == "x-specguard-policy"


def test_what_matches_by_itself_is_not_to_be_asked_for_unless_the_file_says_so() -> None:
    """Else any client had the rules that were written for another team, tool or model."""
    for name in ("shell", "red"):
        with pytest.raises(
            PolicyRefused, match=f"'{name}' holds for the requests that it matches.*by_header"
        ) as caught:
            chosen(x_specguard_policy=name)
        assert caught.value.known
    assert chosen(tools=("bash",)).override == "shell"
    assert chosen(x_team="red-1").override == "red"


def test_an_unknown_name_is_refused_and_the_known_ones_are_told() -> None:
    with pytest.raises(PolicyRefused, match="no policy of this name; known: chat, trial") as caught:
        chosen(x_specguard_policy="shel")
    assert not caught.value.known
    with pytest.raises(PolicyRefused, match="known: none is configured for that"):
        Overrides().choose(Policy(), Traits(("m",), "openai.chat", (), {HEADER: "x"}))


def test_a_client_may_loosen_to_observe_only_if_the_file_says_so() -> None:
    with pytest.raises(PolicyRefused, match="observe_by_header") as caught:
        chosen(x_specguard_policy="trial")
    assert caught.value.known
    base, overrides = effective(parse("observe_by_header = true\n" + FILE), {})
    assert overrides.choose(base, Traits(("m",), "r", (), {HEADER: "trial"})).action == "observe"


def test_where_all_is_observed_nothing_is_loosened() -> None:
    base, overrides = effective(parse("action = 'observe'\n" + FILE), {})
    assert overrides.choose(base, Traits(("m",), "r", (), {HEADER: "trial"})).override == "trial"


def test_quick_settings_win_over_the_file_and_its_overrides() -> None:
    base, overrides = effective(parse(FILE), {"action": "enforce", "max_rewinds": 9})
    assert base.max_rewinds == 9
    assert overrides.choose(base, Traits(("m",), "r", ("bash",))).max_rewinds == 9
    assert overrides.choose(base, Traits(("m",), "r", (), {HEADER: "trial"})).action == "enforce"


def test_without_a_file_the_shipped_policy_holds() -> None:
    assert effective(None, {}) == (Policy(), Overrides())
    assert effective(None, {"repair": True})[0] == Policy(repair=True)


def test_an_override_without_a_condition_waits_to_be_named() -> None:
    assert [override.name for override in OVERRIDES.overrides if override.by_name_only] == ["trial"]
