"""The pacer against brute force on drafters whose acceptance is known, and its pauses, probes and verdicts."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from engine.pacing import DEAD_AFTER, DEAD_PROPOSALS, FIRST_PROBE, LAST_PROBE, TYPICAL, Costs, Pacer

CHEAP = Costs(step_ms=10, row_ms=0.1, mtp_first_ms=0.7, mtp_next_ms=0.7)
DEAR = Costs(step_ms=10, row_ms=0.0, mtp_first_ms=4.0, mtp_next_ms=3.0)
COSTS = [TYPICAL, CHEAP, DEAR]


class Run:
    """Drives a pacer with a drafter whose draft i is right with probability chance(i), given the ones before."""

    def __init__(self, costs: Costs = TYPICAL, seed: int = 0, source: str = "mtp") -> None:
        self.pacer, self.costs, self.source = Pacer(costs), costs, source
        self.rng, self.at = random.Random(seed), 0
        self.lengths: list[int] = []
        self.milliseconds = 0.0
        self.deaths = 0

    def go(self, tokens: int, chance: Callable[[int], float]) -> Run:
        end = self.at + tokens
        while self.at < end:
            length = self.pacer.length(self.source, 7, self.at)
            accepted = 0
            while accepted < length and self.rng.random() < chance(accepted + 1):
                accepted += 1
            if length:
                self.deaths += self.pacer.feedback(self.source, length, accepted)
            self.lengths.append(length)
            self.milliseconds += self.costs.step_with(self.source, length)
            self.at += accepted + 1
        return self

    @property
    def gain(self) -> float:
        return self.at / self.milliseconds * self.costs.step_ms


def best(costs: Costs, chance: Callable[[int], float]) -> tuple[int, float]:
    """Brute force over fixed lengths: the best one and its gain over plain decoding."""
    gains = []
    for length in range(8):
        expected, survival = 1.0, 1.0
        for i in range(1, length + 1):
            survival *= chance(i)
            expected += survival
        gains.append(expected * costs.step_ms / costs.step_with("mtp", length))
    top = max(range(8), key=lambda k: gains[k])
    return top, gains[top]


@pytest.mark.parametrize("costs", COSTS, ids=["typical", "cheap", "dear"])
@pytest.mark.parametrize("rate", [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0])
def test_lengths_settle_near_the_optimum_of_geometric_acceptance(costs: Costs, rate: float) -> None:
    length, gain = best(costs, lambda i: rate)
    runs = [Run(costs, seed).go(3000, lambda i: rate) for seed in range(4)]
    settled = [k for run in runs for k in run.lengths[100:]]
    assert abs(sum(settled) / len(settled) - length) < 1.0
    assert sum(run.gain for run in runs) / 4 > 0.96 * gain


def test_a_chain_that_breaks_off_is_cut_where_it_does() -> None:
    def chance(i: int) -> float:
        return 0.95 if i <= 3 else 0.05

    run = Run(CHEAP).go(3000, chance)
    assert best(CHEAP, chance)[0] == 3
    assert 2.8 < sum(run.lengths[100:]) / len(run.lengths[100:]) < 3.6


def test_free_drafts_are_taken_in_full() -> None:
    run = Run(Costs(10, 0.0), source="ngram").go(600, lambda i: 0.3)
    assert set(run.lengths) == {7}


@pytest.mark.parametrize("seed", range(4))
def test_hopeless_drafts_cost_next_to_nothing(seed: int) -> None:
    run = Run(DEAR, seed).go(4000, lambda i: 0.15)
    assert run.gain > 0.98
    assert sum(run.lengths[200:]) < 0.03 * len(run.lengths)
    assert not run.pacer.dead


@pytest.mark.parametrize("costs", COSTS, ids=["typical", "cheap", "dear"])
@pytest.mark.parametrize("length_of_drought", [500, 1500])
def test_a_paused_drafter_that_recovers_is_back_within_the_probe_bound(costs: Costs, length_of_drought: int) -> None:
    run = Run(costs).go(400, lambda i: 0.8)
    end, fruitless = run.at + length_of_drought, 0
    while run.at < end:  # one token in 40: hopeless, but not dead
        length = run.pacer.length("mtp", 7, run.at)
        accepted = int(fruitless + length >= 40)
        fruitless = 0 if accepted else fruitless + length
        if length:
            assert not run.pacer.feedback("mtp", length, accepted)
        run.lengths.append(length)
        run.at += accepted + 1
    assert sum(run.lengths[-100:]) <= 10, "paused"
    before = len(run.lengths)
    run.go(LAST_PROBE + 60, lambda i: 0.95)
    assert next(i for i, k in enumerate(run.lengths[before:]) if k) <= LAST_PROBE
    assert min(run.lengths[-5:]) >= 3, "drafting again"


def test_probes_come_at_growing_intervals_up_to_a_bound() -> None:
    pacer = Pacer(DEAR)
    pacer.feedback("mtp", 1, 1)
    at, probes = 0, []
    while pacer.length("mtp", 7, at):
        pacer.feedback("mtp", 1, 0)
        at += 1
    while at < 3000:
        if length := pacer.length("mtp", 7, at):
            probes.append(at)
            pacer.feedback("mtp", min(length, 1), 0)
        at += 1
    gaps = [b - a for a, b in pairwise(probes)]
    assert gaps[0] == 2 * FIRST_PROBE
    assert all(b == min(2 * a, LAST_PROBE) for a, b in pairwise(gaps))
    assert gaps[-1] == LAST_PROBE


def test_a_right_probe_is_followed_by_the_next_at_once() -> None:
    pacer = Pacer(DEAR)
    pacer.feedback("mtp", 1, 1)
    at = 0
    while pacer.length("mtp", 7, at):
        pacer.feedback("mtp", 1, 0)
        at += 1
    assert not pacer.length("mtp", 7, at + FIRST_PROBE - 1)
    assert pacer.length("mtp", 7, at + FIRST_PROBE)
    pacer.feedback("mtp", 1, 1)
    assert pacer.length("mtp", 7, at + FIRST_PROBE + 2)


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_a_mistaken_pause_is_soon_over(rate: float) -> None:
    """Drafts that pay a little look hopeless at times; what was before a pause must not outweigh its probes."""
    runs = [Run(CHEAP, seed).go(2000, lambda i: rate) for seed in range(6)]
    assert sum(run.gain for run in runs) / 6 > 0.99 * best(CHEAP, lambda i: rate)[1]


def test_a_rewind_cannot_postpone_a_probe_beyond_its_interval() -> None:
    pacer = Pacer(DEAR)
    pacer.feedback("mtp", 1, 1)
    at = 5000
    while pacer.length("mtp", 7, at):
        pacer.feedback("mtp", 1, 0)
        at += 1
    assert not pacer.length("mtp", 7, 100)
    assert pacer.length("mtp", 7, 100 + FIRST_PROBE)


@pytest.mark.parametrize("costs", COSTS, ids=["typical", "cheap", "dear"])
def test_a_dead_drafter_is_announced_once_and_asked_no_more(costs: Costs) -> None:
    run = Run(costs).go(2000, lambda i: 0.0)
    assert run.deaths == 1
    assert run.pacer.dead == ("mtp",)
    assert sum(run.lengths) >= DEAD_AFTER
    assert sum(k > 0 for k in run.lengths) >= DEAD_PROPOSALS
    assert sum(run.lengths) < DEAD_AFTER + 7 or sum(k > 0 for k in run.lengths) == DEAD_PROPOSALS
    assert not run.pacer.feedback("mtp", 7, 0)
    assert all(run.pacer.length("mtp", 7, at) == 0 for at in range(2000, 9000, 7))
    assert run.pacer.length("ngram", 7, 2000) > 0, "others are judged by themselves"
    run.pacer.begin()
    assert run.pacer.length("mtp", 7, 0) > 0
    assert run.pacer.dead == ()


def test_one_accepted_token_saves_a_drafter() -> None:
    pacer = Pacer(TYPICAL)
    for _ in range(DEAD_PROPOSALS - 1):
        assert not pacer.feedback("ngram", 7, 0)
    assert not pacer.feedback("ngram", 7, 1)
    assert [pacer.feedback("ngram", 7, 0) for _ in range(DEAD_PROPOSALS)] == [False] * (DEAD_PROPOSALS - 1) + [True]


def test_single_drafts_are_counted_to_fifty() -> None:
    pacer = Pacer(TYPICAL)
    assert [pacer.feedback("mtp", 1, 0) for _ in range(DEAD_AFTER)] == [False] * (DEAD_AFTER - 1) + [True]


def test_a_drafter_that_dies_in_mid_stream_is_noticed_soon() -> None:
    for seed in range(6):
        run = Run(TYPICAL, seed).go(500, lambda i: 0.8)
        start = run.at
        while not run.pacer.dead and run.at < start + 1000:
            run.go(1, lambda i: 0.0)
        assert run.at - start < 60


def test_the_limit_is_kept_and_decisions_repeat() -> None:
    def decide() -> list[int]:
        pacer, rng, lengths = Pacer(CHEAP), random.Random(3), []
        for at in range(0, 3000, 3):
            limit = rng.randint(0, 7)
            length = pacer.length("mtp", limit, at)
            assert 0 <= length <= limit
            lengths.append(length)
            if length:
                pacer.feedback("mtp", length, rng.randint(0, length))
        return lengths

    assert decide() == decide()
    assert len(set(decide())) > 4


def test_gain_is_tokens_per_millisecond_over_those_of_plain() -> None:
    pacer = Pacer(Costs(10, 0.5, 2, 1))
    for _ in range(400):
        pacer.feedback("mtp", 3, 3)
    assert pacer.gain("mtp", 3) == pytest.approx(4 * 10 / (10 + 3 * 0.5 + 2 + 2 * 1), rel=0.05)
    assert pacer.gain("mtp", 0) == 1.0
    assert Costs(10, 0.5).step_with("mtp", 0) == 10
