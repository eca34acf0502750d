"""Decisions: where a rewind goes, when there is none, and how a response ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from policies.ladder import is_safer
from policies.modes import CODECS, DRAFTERS, PLAIN, DecodeMode
from policies.policy import (
    Continue,
    Decision,
    End,
    Policy,
    Repair,
    Rewind,
    Situation,
    Start,
    Wait,
    decide,
    decide_start,
)
from policies.rules import DETECTORS, REMEDIES, Rule, When

FAST = DecodeMode("mtp")
OPEN = Situation(FAST, rewinds=0, undelivered=10)


def finding(detector: str, grade: Grade = Grade.FALLBACK, began: int = 50, reason: str = "") -> Finding:
    return Finding(detector, grade, "text", 99, began, reason)


def decided(found: Finding, situation: Situation = OPEN, policy: Policy | None = None) -> Decision:
    return decide(found, situation, policy or Policy())


def to_plain(to: int) -> Rewind:
    return Rewind(to, PLAIN, "trusted")


def test_suspicion_only_holds() -> None:
    assert decided(finding("loop.period", Grade.SUSPECT)) == Continue(hold=True)


@pytest.mark.parametrize("detector", ["tool.schema", "loop.period", "loop.calls", "struct.run", "drift.nonfinite"])
def test_a_rewind_goes_to_where_it_began(detector: str) -> None:
    assert decided(finding(detector)) == to_plain(50)


def test_a_proven_fault_goes_back_to_what_was_delivered() -> None:
    assert decided(finding("drift.audit")) == to_plain(10)


def test_inside_a_call_everything_goes_back_to_its_start() -> None:
    assert decided(finding("loop.period"), replace(OPEN, call_began=30)) == to_plain(30)


def test_a_rewind_never_goes_before_what_was_delivered() -> None:
    assert decided(finding("loop.period"), replace(OPEN, undelivered=80)) == to_plain(80)


def test_a_quantised_cache_falls_back_too() -> None:
    assert decided(finding("tool.schema"), replace(OPEN, mode=DecodeMode("none", "k4v4"))) == to_plain(50)


@pytest.mark.parametrize(
    "situation",
    [replace(OPEN, mode=PLAIN), replace(OPEN, rewinds=2), replace(OPEN, can_rewind=False)],
    ids=["plain", "budget", "backend"],
)
class TestWithoutASaferMode:
    def test_a_bad_call_ends_the_response(self, situation: Situation) -> None:
        assert decided(finding("tool.schema"), situation) == End("invalid_call", 50)
        assert decided(finding("tool.truncated", reason="cut off: stop"), situation) == End("invalid_call", 50)

    def test_a_call_cut_off_by_the_limit_says_so(self, situation: Situation) -> None:
        found = finding("tool.truncated", reason="cut off: length")
        assert decided(found, situation) == End("truncated_call", 50)

    @pytest.mark.parametrize("detector", ["loop.period", "loop.calls", "loop.elements", "struct.run", "struct.think"])
    def test_a_loop_ends_only_when_it_is_grave(self, detector: str, situation: Situation) -> None:
        assert decided(finding(detector), situation) == Continue(hold=True)
        assert decided(finding(detector, Grade.ABORT), situation) == End("model_loop", 50)

    def test_a_fault_of_the_engine_fails(self, situation: Situation) -> None:
        assert decided(finding("drift.nonfinite"), situation) == End("engine_fault", 50)


@pytest.mark.parametrize("situation", [OPEN, replace(OPEN, mode=PLAIN), replace(OPEN, call_began=3)])
def test_a_step_that_hangs_is_never_rewound(situation: Situation) -> None:
    assert decided(finding("stall.step"), situation) == Continue()
    assert decided(finding("stall.step", Grade.ABORT), situation) == End("engine_stalled", 10)


def cycles(copies: int, identical: int) -> Finding:
    grade = Grade.ABORT if copies >= 5 else Grade.FALLBACK
    return Finding("loop.history", grade, "session", 0, 0, "", {"copies": copies, "identical": identical})


@pytest.mark.parametrize(
    ("found", "mode", "policy", "expected"),
    [
        (None, FAST, Policy(), Continue()),
        (cycles(3, 3), FAST, Policy(), Start(PLAIN)),
        (cycles(3, 3), DecodeMode("none", "k4v4"), Policy(), Start(PLAIN)),
        (cycles(3, 3), PLAIN, Policy(), Continue()),
        (cycles(99, 19), FAST, Policy(), Start(PLAIN)),
        (cycles(20, 20), FAST, Policy(), End("model_loop", 0)),
        (cycles(20, 20), PLAIN, Policy(), End("model_loop", 0)),
        (cycles(5, 5), FAST, Policy(max_call_cycles=5), End("model_loop", 0)),
        (cycles(99, 99), FAST, Policy(max_call_cycles=0), Start(PLAIN)),
        (cycles(99, 99), FAST, Policy("observe"), Continue()),
    ],
)
def test_what_a_history_leads_to(found: Finding | None, mode: DecodeMode, policy: Policy, expected: Decision) -> None:
    assert decide_start(found, mode, policy) == expected


@given(
    st.sampled_from(
        [
            "tool.schema",
            "tool.truncated",
            "struct.run",
            "stall.step",
            "loop.period",
            "drift.audit",
            "drift.nonfinite",
            "drift.kv",
            "drift.prefix",
        ]
    ),
    st.sampled_from(Grade),
    st.integers(0, 99),
    st.integers(0, 99),
    st.none() | st.integers(0, 99),
    st.integers(0, 3),
    st.sampled_from([PLAIN, FAST, DecodeMode("none", "k8v8")]),
    st.booleans(),
)
def test_delivered_tokens_are_never_touched_and_plain_is_never_retried(
    detector: str,
    grade: Grade,
    began: int,
    undelivered: int,
    call: int | None,
    rewinds: int,
    mode: DecodeMode,
    recomputed: bool,
) -> None:
    situation = Situation(mode, rewinds, undelivered, call, recomputed=recomputed)
    decision = decided(finding(detector, grade, began), situation)
    match decision:
        case Rewind(to, after, rebuild):
            assert to >= undelivered
            again = after == mode
            assert is_safer(after, mode) or (again and not recomputed and detector in ("drift.kv", "drift.prefix"))
            assert rebuild == ("clean" if again or detector in ("drift.kv", "drift.shadow") else "trusted")
        case End(_, keep):
            assert keep >= undelivered


@given(st.sampled_from(["tool.schema", "loop.period", "drift.audit"]), st.sampled_from(Grade))
def test_observing_never_acts(detector: str, grade: Grade) -> None:
    assert decided(finding(detector, grade), OPEN, Policy("observe")) == Continue()


@pytest.mark.parametrize("detector", ["drift.kv", "drift.prefix", "drift.shadow"])
def test_where_no_safer_mode_is_left_the_caches_are_computed_anew_once(detector: str) -> None:
    plain = replace(OPEN, mode=PLAIN)
    assert decided(finding(detector), plain) == Rewind(10 if detector == "drift.prefix" else 50, PLAIN, "clean")
    coded = decided(finding(detector), replace(OPEN, mode=DecodeMode("none", "k8v8")))
    assert isinstance(coded, Rewind) and coded.mode == PLAIN, "a safer mode comes first"
    for never in (replace(plain, recomputed=True), replace(plain, can_rewind=False), replace(plain, rewinds=2)):
        assert decided(finding(detector), never) == End("engine_fault", 50)


LAST = replace(OPEN, mode=PLAIN)
MENDS = Policy(repair=True)


@pytest.mark.parametrize("detector", ["tool.json", "tool.markup", "tool.schema"])
def test_a_call_is_mended_only_when_it_is_complete(detector: str) -> None:
    assert decided(finding(detector), replace(LAST, call_began=40), MENDS) == Wait()
    assert decided(finding(detector), replace(LAST, mendable=True), MENDS) == Repair()
    assert decided(finding(detector), LAST, MENDS) == End("invalid_call", 50)


def test_a_safer_mode_comes_before_mending() -> None:
    assert decided(finding("tool.json"), replace(OPEN, mendable=True), MENDS) == to_plain(50)


@pytest.mark.parametrize("detector", ["tool.unknown", "tool.truncated", "tool.limit", "tool.leak"])
def test_what_cannot_be_mended_is_not_waited_for(detector: str) -> None:
    assert decided(finding(detector), replace(LAST, call_began=40, mendable=True), MENDS) == End("invalid_call", 50)


def test_nothing_is_mended_unless_asked_for() -> None:
    assert decided(finding("tool.json"), replace(LAST, mendable=True)) == End("invalid_call", 50)
    observed = replace(MENDS, action="observe")
    assert decided(finding("tool.json"), replace(LAST, mendable=True), observed) == Continue()


def before_there_were_rules(finding: Finding, situation: Situation, policy: Policy) -> Decision:
    """What was decided by code alone, up to version 0.1: the shipped rules must say the same."""
    if policy.action == "observe":
        return Continue()
    if finding.grade is Grade.SUSPECT:
        return Continue(hold=True)
    unit = finding.began if situation.call_began is None else min(finding.began, situation.call_began)
    if finding.detector.startswith("stall."):
        return Continue() if finding.grade is not Grade.ABORT else End("engine_stalled", situation.undelivered)
    if situation.mode != PLAIN and situation.can_rewind and situation.rewinds < policy.max_rewinds:
        proven = finding.detector in ("drift.audit", "drift.prefix")
        to = situation.undelivered if proven else max(unit, situation.undelivered)
        clean = finding.detector in ("drift.kv", "drift.shadow")
        return Rewind(to, PLAIN, "clean" if clean else "trusted")
    if finding.detector.startswith(("loop.", "struct.")):
        if finding.grade is not Grade.ABORT:
            return Continue(hold=True)
        return End("model_loop", max(unit, situation.undelivered))
    keep = max(finding.began, situation.undelivered)
    if finding.detector in ("tool.json", "tool.markup", "tool.schema") and policy.repair:
        if situation.call_began is not None:
            return Wait()
        if situation.mendable:
            return Repair()
    if finding.detector.startswith("tool."):
        at_limit = finding.detector == "tool.truncated" and finding.reason.endswith("length")
        return End("truncated_call" if at_limit else "invalid_call", keep)
    return End("engine_fault", keep)


situations = st.builds(
    Situation,
    st.builds(DecodeMode, st.sampled_from(DRAFTERS), st.sampled_from(CODECS)),
    st.integers(0, 3),
    st.integers(0, 99),
    st.none() | st.integers(0, 99),
    st.booleans(),
    st.booleans(),
)
policies = st.builds(Policy, st.sampled_from(["enforce", "observe"]), st.integers(0, 2), repair=st.booleans())
NOT_THEN = ("tool.held", "budget.session", "loop.history", "text.charset")
"""New, spoken only before the first token, or never graver than a suspicion."""
findings = st.builds(
    finding,
    st.sampled_from([name for name in DETECTORS if name not in NOT_THEN and not name.startswith("lane.")]),
    st.sampled_from(Grade),
    st.integers(0, 99),
    st.sampled_from(["cut off: stop", "cut off: length"]),
)


@settings(max_examples=500)
@given(findings, situations, policies)
def test_the_shipped_rules_say_what_was_said_before_there_were_rules(
    found: Finding, situation: Situation, policy: Policy
) -> None:
    """The one improvement: what convicts one of the two parts of a mode switches off that part alone."""
    expected = before_there_were_rules(found, situation, policy)
    decision = decide(found, situation, policy)
    if isinstance(expected, Rewind) and isinstance(decision, Rewind) and decision != expected:
        assert found.detector.startswith("drift.")
        assert situation.mode.speculates
        assert situation.mode.codec != "full"
        assert is_safer(decision.mode, situation.mode)
        expected = replace(expected, mode=decision.mode)
    assert decision == expected


BOTH = replace(OPEN, mode=DecodeMode("mtp", "k4v4"))


@pytest.mark.parametrize(
    ("detector", "mode"),
    [
        ("drift.audit", "none/k4v4"),
        ("drift.accepted", "none/k4v4"),
        ("drift.sharpened", "none/k4v4"),
        ("drift.shadow", "mtp/full"),
        ("drift.kv", "mtp/full"),
        ("drift.nonfinite", "plain"),
        ("tool.schema", "plain"),
        ("loop.period", "plain"),
    ],
)
def test_who_is_accused_picks_the_rung(detector: str, mode: str) -> None:
    decision = decided(finding(detector), BOTH)
    assert isinstance(decision, Rewind)
    assert decision.mode == DecodeMode.parse(mode)


def test_a_call_that_is_held_too_long_ends_the_response() -> None:
    found = finding("tool.held", began=30)
    assert decided(found, replace(OPEN, call_began=30)) == End("late_call", 30)


rules = st.lists(
    st.builds(
        Rule,
        st.text("ab", min_size=1),
        st.builds(
            When, st.sampled_from([(), ("loop.*",), ("*.audit", "tool.*"), ("stall.*",)]), st.sampled_from(Grade)
        ),
        st.lists(st.sampled_from(REMEDIES), min_size=1, max_size=4).map(tuple),
        st.sampled_from(["speculation", "kv", "unknown"]),
    ),
    max_size=4,
).map(tuple)


@given(findings, situations, policies, rules)
def test_no_rules_can_touch_what_was_delivered_or_retry_a_mode(
    found: Finding, situation: Situation, policy: Policy, own: tuple[Rule, ...]
) -> None:
    policy = replace(policy, rules=own)
    decision = decide(found, situation, policy)
    match decision:
        case Rewind(to, after):
            assert to >= situation.undelivered
            assert is_safer(after, situation.mode)
            assert situation.rewinds < policy.max_rewinds
            assert situation.can_rewind
        case End(_, keep):
            assert keep >= situation.undelivered
        case Repair():
            assert policy.repair
            assert situation.mendable
    spoke = next((rule for rule in own if rule.when.matches(found, situation.mode, situation.tool)), None)
    assert decision.rule == ("" if spoke is None or policy.action == "observe" else spoke.name)


def test_a_finding_that_no_rule_is_for_is_recorded_and_nothing_else() -> None:
    assert decided(finding("loop.period"), OPEN, Policy(rules=())) == Continue()


def test_a_rule_may_be_for_one_tool() -> None:
    rule = Rule("rm", When(("tool.*",), tools=("rm*",)), ("end",))
    policy = Policy(rules=(rule, *Policy().rules))
    assert decided(finding("tool.schema"), replace(OPEN, tool="rm_all"), policy) == End("invalid_call", 50)
    assert decided(finding("tool.schema"), replace(OPEN, tool="ls"), policy) == to_plain(50)


def test_an_end_that_no_kind_has_names_its_rule() -> None:
    policy = Policy(rules=(Rule("no-cyrillic", When(("text.charset",)), ("end",)),))
    assert decided(finding("text.charset", Grade.SUSPECT), OPEN, policy) == End("by_rule", 50)


SPENT = Finding("budget.session", Grade.FALLBACK, "session", 0, 0, "spent", {"rewinds": 20})


def test_a_session_whose_rewinds_are_spent_begins_in_plain() -> None:
    assert decide_start(SPENT, DecodeMode("mtp", "k4v4"), Policy()) == Start(PLAIN)
    assert decide_start(SPENT, FAST, Policy("observe")) == Continue()
    strict = Policy(rules=(Rule("stop", When(("budget.*",)), ("end",)),))
    assert decide_start(SPENT, FAST, strict) == End("by_rule", 0)
    gentle = Policy(rules=(Rule("half", When(("budget.*",)), ("rewind", "none"), "speculation"),))
    assert decide_start(SPENT, DecodeMode("mtp", "k4v4"), gentle) == Start(DecodeMode("none", "k4v4"))
