"""The ladder of questions to lanes: who is named by which cures, what is asked, and that nobody is ever certain."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from policies.axes import AxesVerdict
from policies.lane_axes import LaneCase, LaneSeen, LaneSetup, judge_lanes, lane_rows

THEN = LaneSetup("fast", filtered=True)
CASE = LaneCase(THEN, "plain", True, ("speculation",))
Says = Callable[[LaneSetup], bool]
"""Is the trouble there?"""


def play(case: LaneCase, there: Says) -> tuple[AxesVerdict, list[tuple[LaneSetup, LaneSeen]]]:
    asked: list[tuple[LaneSetup, LaneSeen]] = []
    while isinstance(wanted := judge_lanes(case, asked), LaneSetup):
        bad = there(wanted)
        asked.append((wanted, LaneSeen("tool.schema" if bad else "", bad, 10)))
        assert len(asked) < 9, "it asks for ever"
    return wanted, asked


@pytest.mark.parametrize(
    ("there", "culprit", "questions"),
    [
        (lambda s: not s.fresh, "prefix", 5),
        (lambda s: s.filtered, "filter", 6),
        (lambda s: s.lane == "fast", "speculation", 6),
        (lambda s: True, "model", 2),
        (lambda s: s.lane == "fast" and not s.fresh, "prefix", 5),  # each lane has a cache of its own
        (lambda s: s.lane == "fast" and s.filtered, "unknown", 5),
        (lambda s: s.filtered and not s.fresh, "unknown", 5),
        (lambda s: s != CASE.baseline, "unknown", 5),
    ],
)
def test_the_change_that_cures_names_the_layer(there: Says, culprit: str, questions: int) -> None:
    verdict, asked = play(CASE, there)
    assert (str(verdict.culprit), len(asked)) == (culprit, questions), verdict.note
    assert verdict.certainty == ("none" if culprit == "unknown" else "likely")
    assert all(row["cures"] != row["recurs"] for row in lane_rows(CASE, asked) if row["axis"] != "none")


@pytest.mark.parametrize(
    ("apart", "culprit"),
    [(("kv",), "kv"), (("speculation",), "speculation"), (("kv", "speculation"), "unknown"), (("version",), "unknown")],
)
def test_a_lane_names_a_layer_only_if_nothing_else_tells_the_lanes_apart(apart: tuple[str, ...], culprit: str) -> None:
    verdict, _ = play(LaneCase(THEN, "plain", True, apart), lambda s: s.lane == "fast")
    assert str(verdict.culprit) == culprit
    assert all(each in verdict.note for each in (apart if culprit == "unknown" else ()))


def test_what_comes_and_goes_convicts_nobody() -> None:
    times = iter([True])
    verdict, _ = play(CASE, lambda s: s == THEN and next(times, False))
    assert (str(verdict.culprit), verdict.certainty) == ("unknown", "none")
    verdict, asked = play(LaneCase(THEN, "plain"), lambda s: s.filtered)
    again = [seen for setup, seen in asked if setup == THEN]
    assert str(verdict.culprit) == "filter" and len(again) == 2
    once = [*asked[:-1], (THEN, LaneSeen("", False, 10))]
    spoilt = judge_lanes(LaneCase(THEN, "plain"), once)
    assert isinstance(spoilt, AxesVerdict) and (spoilt.culprit, "comes and goes" in spoilt.note) == ("unknown", True)


def test_what_does_not_come_again_is_no_verdict() -> None:
    verdict, asked = play(CASE, lambda s: False)
    assert verdict.culprit is None and len(asked) == 1 and "not reproduced" in verdict.note


def test_what_cannot_be_changed_is_not_asked_for() -> None:
    alone = LaneCase(LaneSetup("fast"), "", False)
    verdict, asked = play(alone, lambda s: True)
    assert len(asked) == 1 and "nothing of it can be changed" in verdict.note
    verdict, _ = play(LaneCase(LaneSetup("fast"), ""), lambda s: True)
    assert str(verdict.culprit) == "unknown" and "no plain lane" in verdict.note
    verdict, asked = play(LaneCase(LaneSetup("plain"), "plain"), lambda s: True)
    assert str(verdict.culprit) == "model" and {setup.lane for setup, _ in asked} == {"plain"}


def test_another_trouble_is_neither_cured_nor_the_same() -> None:
    other = [(THEN, LaneSeen("tool.schema", True, 1)), (CASE.baseline, LaneSeen("loop.period", False, 1))]
    verdict = judge_lanes(CASE, other)
    assert isinstance(verdict, AxesVerdict) and str(verdict.culprit) == "unknown" and "loop.period" in verdict.note


def test_no_evidence_makes_it_certain() -> None:
    setups = [LaneSetup(lane, fresh, kept) for lane, fresh, kept in product(("fast", "plain"), *[(False, True)] * 2)]
    for bits in product((False, True), repeat=len(setups)):
        there = dict(zip(setups, bits, strict=True))
        verdict, _ = play(CASE, there.__getitem__)
        assert verdict.certainty != "certain"
