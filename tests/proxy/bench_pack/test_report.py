"""The report: bars from both sides or not at all, the context cliff, and a page whose numbers are the JSON's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from proxy.bench_pack.client import Answer, Drafts
from proxy.bench_pack.figures import Rate, Trial, figures
from proxy.bench_pack.report import FULL_SPEED, PACKED, cliff, interval, report
from proxy.bench_pack.run import Measured, Plan, Point
from proxy.bench_pack.workloads import QUICK
from proxy.bench_report import Report

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
        found.modes[mode] = {"quality": replace(made, passed=Rate(share, share, share, 100)), "<b>": made}
        found.sweep[mode] = [Point(tokens, made) for tokens in (512, 1024)]
        found.kv[mode] = (100, 5000)
    return found


def bars(found: Measured) -> dict[str, bool]:
    return {bar.name: bar.holds for bar in report(found, PLAN, "test").bars}


def test_bars() -> None:
    good = bars(measured("plain", FULL_SPEED, PACKED, passed=0.98))
    assert len(good) == 6 and all(good.values())
    bad = bars(measured("plain", FULL_SPEED, PACKED, seconds=7.0, passed=0.97))
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


def test_it_is_the_common_form_and_json() -> None:
    made = report(measured("plain", FULL_SPEED), PLAN, "test")
    plain = json.loads(json.dumps(made.plain()))
    assert Report.parse(plain).missed == made.missed and plain["bench"] == "pack"
    assert plain["data"]["kv"][FULL_SPEED] == {"tokens": 100, "bytes": 5000}
    assert {"machine", "cpu", "seed", "python", "specguard", "source"} <= set(plain["settings"])
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


def test_intervals() -> None:
    assert interval({"value": 0.5, "low": 0.25, "high": 0.75}, 100) == "50 (25-75)"
    assert interval(None) is None
