"""Ratios, bars and tables from samples; a slow drafter and unequal text make their bars show up."""

from __future__ import annotations

import time

import pytest

from engine.bench import compare as comparing
from engine.bench.compare import PEER, Comparison, bars, compare, figures, table
from engine.bench.measure import Sample
from engine.bench.report import Bar
from engine.bench.workloads import prompts
from engine.drafters.mtp import MtpDrafter
from engine.engine import Engine


def taken(seconds: float, tokens: tuple[int, ...] = (1, 2, 3)) -> list[Sample]:
    return [Sample(tokens, 0.1, seconds, seconds / 4, len(tokens), ((3, 2),))]


def compared(workload: str, engine: Engine, **rounds: list[list[Sample]]) -> Comparison:
    names = {"none": "none", "fast": "mtp+ngram"}
    prompt = prompts(engine, "agent", quick=True)[:1]
    return Comparison(workload, prompt, {names[name]: samples for name, samples in rounds.items()})


def found(results: dict[str, Comparison], start: str) -> Bar:
    return next(bar for bar in bars(results, {})[0] if bar.name.startswith(start))


def test_ratios_are_medians_of_rounds_not_ratios_of_medians(embedded: Engine) -> None:
    plain, fast = [taken(3.0), taken(30.0), taken(3.0)], [taken(1.0), taken(10.0), taken(10.0)]
    result = compared("agent", embedded, none=plain, fast=fast)
    assert result.ratio("mtp+ngram", "none") == pytest.approx(3.0)  # the medians alone would say 0.3
    assert result.ratio("mtp+ngram", PEER) is None


def test_bars_at_their_limits(embedded: Engine) -> None:
    result = compared("rewrite", embedded, none=[taken(2.5)], fast=[taken(1.0)])
    assert found({"rewrite": result}, "file rewrite: mtp+ngram against own plain").holds
    result = compared("rewrite", embedded, none=[taken(2.49)], fast=[taken(1.0)])
    assert not found({"rewrite": result}, "file rewrite: mtp+ngram against own plain").holds


def test_bars_that_were_not_measured_have_a_reason(embedded: Engine) -> None:
    result = compared("agent", embedded, none=[taken(3.0)], fast=[taken(1.0)])
    held, unmeasured = bars({"agent": result}, {PEER: "not installed", "rewrite": "not among --only"})
    assert len(held) == 2 and len(unmeasured) == 5
    assert unmeasured[f"agent tool calls: none against {PEER}"] == "not installed"
    assert unmeasured["file rewrite: mtp+ngram against own plain"] == "not among --only"


def test_one_unequal_token_misses_the_bar(embedded: Engine) -> None:
    result = compared("agent", embedded, none=[taken(3.0), taken(3.0)], fast=[taken(1.0), taken(1.0, (1, 2, 4))])
    bar = found({"agent": result}, "same text")
    assert (bar.measured, bar.holds) == (1, False)


def test_the_table_has_a_row_per_mode(embedded: Engine) -> None:
    result = compared("agent", embedded, none=[taken(3.0)], fast=[taken(1.0)])
    result.peer.append((6.0, 3))
    shown = table(result)
    assert [row[0] for row in shown.rows] == ["none", "mtp+ngram", PEER]
    assert all(len(row) == len(shown.columns) for row in shown.rows)
    fast = dict(zip(shown.columns, shown.rows[1], strict=True))
    assert fast["tokens/s"] == 3.0 and fast["x none"] == pytest.approx(3.0) and fast["x peer"] == pytest.approx(6.0)
    assert (fast["acc 2"], fast["acc 3"], fast["acc 4"]) == (1.0, 0.0, None)
    assert fast["draft ms"] == pytest.approx(250 / 3) and fast["verify ms"] == pytest.approx(250)
    assert figures(result)["modes"]["mtp+ngram"]["times_peer"] == pytest.approx(6.0)


def test_a_planted_slow_drafter_misses_its_bar(embedded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    original = MtpDrafter.propose

    def slow(self: MtpDrafter, limit: int) -> list[int]:
        time.sleep(0.2)
        return original(self, limit)

    monkeypatch.setattr(MtpDrafter, "propose", slow)
    lines: list[str] = []
    result = compare(embedded, "agent", prompts(embedded, "agent", quick=True)[2:3], 1, None, lines.append)
    assert not found({"agent": result}, "agent tool calls: mtp+ngram against own plain").holds
    assert found({"agent": result}, "same text").holds
    assert list(result.rounds) == list(embedded.drafters) and len(lines) == 1
    assert comparing.table(result).rows[2][-3] > 150  # it shows where the time went
