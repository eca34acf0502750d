"""Decisions: where a rewind goes, when there is none, and how a response ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from policies.modes import PLAIN, DecodeMode
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
        ["tool.schema", "tool.truncated", "struct.run", "stall.step", "loop.period", "drift.audit", "drift.nonfinite"]
    ),
    st.sampled_from(Grade),
    st.integers(0, 99),
    st.integers(0, 99),
    st.none() | st.integers(0, 99),
    st.integers(0, 3),
    st.sampled_from([PLAIN, FAST, DecodeMode("none", "k8v8")]),
)
def test_delivered_tokens_are_never_touched_and_plain_is_never_retried(
    detector: str,
    grade: Grade,
    began: int,
    undelivered: int,
    call: int | None,
    rewinds: int,
    mode: DecodeMode,
) -> None:
    situation = Situation(mode, rewinds, undelivered, call)
    decision = decided(finding(detector, grade, began), situation)
    match decision:
        case Rewind(to, after, rebuild):
            assert to >= undelivered
            assert mode != PLAIN
            assert (after, rebuild) == (PLAIN, "trusted")
        case End(_, keep):
            assert keep >= undelivered


@given(st.sampled_from(["tool.schema", "loop.period", "drift.audit"]), st.sampled_from(Grade))
def test_observing_never_acts(detector: str, grade: Grade) -> None:
    assert decided(finding(detector, grade), OPEN, Policy("observe")) == Continue()


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
