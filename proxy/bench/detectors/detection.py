"""How surely and how soon made loops are found.

Must not: count a suspicion as found: it only holds text.
Invariant: a loop is found if FALLBACK or worse comes within LOOP_TOKENS of its start; sooner it is a false alarm.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from detectors.channel_loops import ChannelLoops
from detectors.finding import Grade
from detectors.loop_settings import LoopSettings
from proxy.bench.detectors.synthetic import KINDS, LEAD, LOOP_TOKENS, holds, stream
from proxy.bench.report import Bar, Cell, Table

PERIODS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 110, 144, 180, 233, 280, 320, 360, 400)
MUTATED_UP_TO = 55
MUTATED_DELAY, EXACT_DELAY, EXACT_COPIES, MISSED = 700, 256, 4, 0.01


@dataclass(frozen=True, slots=True)
class Trial:
    """delay: tokens from the loop's start to the finding, None = missed. kept: copies that a rewind to `began` leaves,
    0 = less than one. early: found where there was no loop yet."""

    kind: str
    period: int
    delay: int | None
    kept: float
    early: bool


def run_trial(kind: str, period: int, seed: int, settings: LoopSettings | None = None) -> Trial:
    """One made loop through the detectors of the text channel."""
    loops = ChannelLoops(settings)
    for position, (token, text) in enumerate(stream(kind, period, seed)[: LEAD + LOOP_TOKENS]):
        found = loops.feed(position, token, text)
        if found is not None and found.grade >= Grade.FALLBACK:
            early = position < LEAD
            return Trial(kind, period, None if early else position - LEAD + 1, (found.began - LEAD) / period, early)
    return Trial(kind, period, None, 0.0, False)


def run_trials(seeds: int, periods: Iterable[int] = PERIODS, settings: LoopSettings | None = None) -> list[Trial]:
    """Every kind at every period that leaves room for four copies."""
    return [
        run_trial(kind, period, seed, settings)
        for kind in KINDS
        for period in periods
        if holds(kind, period)
        for seed in range(seeds)
    ]


def missed(trials: list[Trial]) -> float:
    """Share of the loops that were not found in time, 0 to 1."""
    return sum(trial.delay is None for trial in trials) / len(trials)


def median_delay(trials: list[Trial]) -> float:
    """Tokens; a missed loop counts as LOOP_TOKENS."""
    return statistics.median(trial.delay or LOOP_TOKENS for trial in trials)


def table(trials: list[Trial]) -> Table:
    """Per kind of loop."""
    rows: list[tuple[Cell, ...]] = []
    for kind in KINDS:
        of_kind = [trial for trial in trials if trial.kind == kind]
        short = [trial for trial in of_kind if trial.period <= MUTATED_UP_TO]
        found = [trial for trial in of_kind if trial.delay is not None]
        longest = max(trial.period for trial in of_kind)
        delays = sorted(trial.delay or LOOP_TOKENS for trial in of_kind)
        rows.append(
            (
                kind,
                longest,
                len(of_kind),
                100 * missed(of_kind),
                median_delay(short),
                median_delay(of_kind),
                delays[int(0.9 * (len(delays) - 1))],
                statistics.median(trial.kept for trial in found) if found else None,
            )
        )
    columns = (
        "made loop",
        "periods up to",
        "n",
        f"missed in {LOOP_TOKENS} %",
        f"median delay to period {MUTATED_UP_TO}",
        "median delay",
        "p90",
        "copies kept",
    )
    note = (
        "Delay: tokens from the loop's start to FALLBACK. Periods that leave no room for four copies of each variant "
    )
    return Table("Detection", columns, tuple(rows), note + "are left out.")


def bars(trials: list[Trial]) -> list[Bar]:
    """What the detection has to reach."""
    exact = [trial for trial in trials if trial.kind == "exact"]
    allowed = [max(EXACT_DELAY, EXACT_COPIES * trial.period) for trial in exact]
    share = statistics.median((t.delay or LOOP_TOKENS) / most for t, most in zip(exact, allowed, strict=True))
    mutated = [trial for trial in trials if trial.kind != "exact" and trial.period <= MUTATED_UP_TO]
    return [
        Bar.at_most("loops missed in 2,048 tokens", 100 * MISSED, 100 * missed(trials), "%"),
        Bar.at_most("exact loops, median delay against max(256, 4 periods)", 1, share, "ratio"),
        Bar.at_most(
            f"mutated loops to period {MUTATED_UP_TO}, median delay", MUTATED_DELAY, median_delay(mutated), "tokens"
        ),
        Bar.at_most("false alarms before a made loop began", 0, sum(trial.early for trial in trials)),
    ]
