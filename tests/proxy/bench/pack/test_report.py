"""The report: bars from both sides or not at all, the context cliff, and a page whose numbers are the JSON's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from proxy.bench.pack.client import Answer, Drafts
from proxy.bench.pack.figures import Rate, Trial, again, figures
from proxy.bench.pack.report import FULL_SPEED, PACKED, cliff, interval, report
from proxy.bench.pack.run import Measured, Plan, Point
from proxy.bench.pack.workloads import QUICK
from proxy.bench.report import Report

PLAN = Plan(("plain",), QUICK)


def measured(*modes: str, seconds: float = 4.0, passed: float = 1.0) -> Measured:
    """plain takes 10 s, every other mode `seconds`."""
    found = Measured(titles={"quality": "quality check", "<b>": "<i>evil</i>"}, about={"exactness": "bitwise"})
    for mode in modes:
        drafts = Drafts(10, 8, ((5, 5), (5, 3))) if mode != "plain" else None
        answer = Answer("x", tokens=10, decode_s=0.1, computed=50, prompt_s=0.01, drafts=drafts, prompt=50)
        spent = 10.0 if mode == "plain" else seconds
        trials = [Trial("t", [answer], spent, spent, True)]
        made = figures(mode, "quality", trials)
        share = passed if mode == PACKED else 1.0
        made = again(made, made)
        found.modes[mode] = {"quality": replace(made, passed=Rate(share, share, share, 100)), "<b>": made}
        found.sweep[mode] = [Point(tokens, made) for tokens in (512, 1024)]
        found.kv[mode] = (100, 5000)
    return found


def bars(found: Measured) -> dict[str, bool]:
    return {bar.name: bar.holds for bar in report(found, PLAN, "test").bars}


def test_bars() -> None:
    good = bars(measured("plain", FULL_SPEED, PACKED, passed=0.98))
    assert len(good) == 6 and all(good.values())
    assert all(bars(measured("plain", FULL_SPEED, seconds=6.0)).values())
    bad = bars(measured("plain", FULL_SPEED, PACKED, seconds=6.01, passed=0.979))
    assert [name for name, holds in bad.items() if not holds] == [
        f"whole-loop time of {FULL_SPEED}, of plain/full's",
        f"whole-loop processor time of {FULL_SPEED}, of plain/full's",
        f"pass rate that {PACKED} loses to full",
    ]


def test_other_text_is_missed() -> None:
    found = measured("plain", FULL_SPEED)
    found.modes[FULL_SPEED]["quality"] = replace(found.modes[FULL_SPEED]["quality"], text="other")
    assert bars(found)["text unlike plain's, full cache"] is False


def test_a_bar_with_one_side_is_not_measured() -> None:
    made = report(measured("plain"), PLAN, "test")
    assert made.bars == () and len(made.unmeasured) == 4 and made.missed == []


def test_a_bar_with_half_a_side_is_not_measured() -> None:
    """A run that was stopped in its second mode, in its third, or before plain decoding had met everything."""
    found = measured("plain", FULL_SPEED, PACKED, passed=0.0)
    del found.modes[FULL_SPEED]["quality"]
    made = report(found, PLAN, "test")
    assert [bar.name for bar in made.bars] == [f"pass rate that {PACKED} loses to full"] and len(made.missed) == 1
    assert len(made.unmeasured) == 3
    del found.modes["plain"]["quality"], found.modes[PACKED]["quality"]
    assert f"pass rate that {PACKED} loses to full" in report(found, PLAN, "test").unmeasured, "nothing was judged"
    del found.modes["plain"]["<b>"]
    found.modes["plain"]["quality"] = found.modes[FULL_SPEED]["<b>"]
    assert f"whole-loop time of {FULL_SPEED}, of plain/full's" in report(found, PLAN, "test").unmeasured


def test_processor_time_of_an_engine_elsewhere_is_not_measured() -> None:
    found = measured("plain", FULL_SPEED)
    found.about["target"] = "http://127.0.0.1:1"
    made = report(found, PLAN, "test")
    assert (
        len(made.bars) == 4
        and "another process" in made.unmeasured[made.bars[0].name.replace("time", "processor time")]
    )
    for key, one in found.modes["plain"].items():
        found.modes["plain"][key] = replace(one, processor_s=0.0)
    assert report(found, PLAN, "test").bars == made.bars


def test_no_draft_at_a_position() -> None:
    found = measured(FULL_SPEED)
    for key, one in found.modes[FULL_SPEED].items():
        found.modes[FULL_SPEED][key] = replace(one, by_position=((0, 0),))
    assert (FULL_SPEED, "-") in [row for table in report(found, PLAN, "test").tables for row in table.rows]


def test_it_is_the_common_form_and_json() -> None:
    made = report(measured("plain", FULL_SPEED), PLAN, "test")
    plain = json.loads(json.dumps(made.plain()))
    assert Report.parse(plain).missed == made.missed and plain["bench"] == "pack"
    assert plain["data"]["kv"][FULL_SPEED] == {"tokens": 100, "bytes": 5000}
    assert {"machine", "cpu", "seed", "python", "specguard", "source"} <= set(plain["settings"])
    assert [FULL_SPEED, 100, 5000, 50.0] in [row for table in plain["tables"] for row in table["rows"]]
    titles = [table["title"] for table in plain["tables"]]
    assert titles[0] == "quality check (1)" and titles[-1] == "Recommendation"
    assert "Acceptance by position of a draft, %" in titles


def test_the_cliff_is_the_first_length_below_half() -> None:
    def point(tokens: int, passed: float, decode: float | None) -> dict[str, Any]:
        rate = None if decode is None else {"value": decode}
        return {"tokens": tokens, "figures": {"passed": {"value": passed}, "decode": rate}}

    points = [point(512, 1.0, 100.0), point(1024, 0.5, None), point(2048, 0.4, 49.0), point(4096, 0.0, 10.0)]
    assert cliff(points) == {"passed": 2048, "decode": 2048}
    assert cliff(points[:2]) == {"passed": None, "decode": None}
    assert cliff([point(512, 0.0, 9.0), point(1024, 0.0, 9.0)])["passed"] == 512, "nothing passes even there"


def test_intervals() -> None:
    assert interval({"value": 0.5, "low": 0.25, "high": 0.75}, 100) == "50 (25-75)"
    assert interval({"value": 93.0, "low": 93.0, "high": 93.0, "of": 1}) == "93 (once)", "and not (93-93)"
    assert interval(None) is None
