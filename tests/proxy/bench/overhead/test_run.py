"""The whole benchmark on a small scale, and the arithmetic of its bars."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from proxy.bench.overhead.load import Seen
from proxy.bench.overhead.run import DIRECT, HOP, OURS, PEER, Plan, bars_of, compare, measure, tables_of

SMALL = Plan(streams=(1,), sizes=("1 kB",), rounds=2, seconds=0.1, gap_s=0.001)


def seen(first: float, gap: float) -> Seen:
    """Seconds."""
    return Seen([first] * 9, [gap] * 9)


async def test_all_arms_are_measured_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    told: list[str] = []
    report = await measure(SMALL, told.append)
    assert [line.rpartition(": ")[2] for line in told] == [DIRECT, HOP, OURS, HOP, OURS, DIRECT]
    assert [row[:3] for row in report.tables[0].rows] == [("1 kB", 1, arm) for arm in (DIRECT, HOP, OURS)]
    assert report.data["1 streams, 1 kB, specguard"]["responses"] >= 2
    assert (report.bars, report.missed) == ((), [])  # they are about 16 streams
    assert len(report.unmeasured) == 2
    assert all("litellm[proxy]" in reason for reason in report.unmeasured.values())


async def test_a_peer_that_does_not_start_costs_its_bars_only(tmp_path: Path) -> None:
    fake = tmp_path / "litellm"
    fake.write_text("#!/bin/sh\necho no such option\nexit 3\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    report = await measure(SMALL, lambda _: None, str(fake))
    assert all(reason.endswith("its last line: no such option") for reason in report.unmeasured.values())
    assert len(report.tables[0].rows) == 3


def test_what_is_added_is_told_round_by_round() -> None:
    """A load that comes for one round weighs on both arms, and the median leaves the odd round out."""
    direct = [seen(0.001, 0.010), seen(0.101, 0.011), seen(0.001, 0.010)]
    ours = [seen(0.0015, 0.0102), seen(0.1015, 0.0112), seen(0.901, 0.010)]
    measured = compare(ours, direct)
    assert measured.first_added == pytest.approx((0.5, 0.5, 0.5))
    assert measured.gap_added == pytest.approx((0.2, 0.2, 0.2))
    assert measured.first == pytest.approx((101.5, 101.5, 101.5))
    assert measured.requests == 27


def test_bars_are_of_16_streams() -> None:
    direct, ours, theirs = [seen(0.001, 0.010)], [seen(0.0018, 0.012)], [seen(0.0058, 0.011)]
    arms = {DIRECT: compare(direct, direct), OURS: compare(ours, direct), PEER: compare(theirs, direct)}
    bars = {bar.name: bar for bar in bars_of({(16, "1 kB"): arms, (64, "1 kB"): arms})}
    assert len(bars) == 6
    assert bars["added to the first word, p50, 16 streams, 1 kB"].measured == pytest.approx(0.8)
    assert bars["added to the first word, p50, 16 streams, 1 kB"].holds
    assert not bars["added to the gap, p50, 16 streams, 1 kB"].holds
    ratio = bars["LiteLLM adds so many times more to the first word, p50, 16 streams, 1 kB"]
    assert (ratio.measured, ratio.holds) == (pytest.approx(6.0), True)
    assert len(tables_of({(16, "1 kB"): arms})[0].rows) == 3
