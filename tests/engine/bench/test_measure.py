"""Samples: complete, in their own parts, and acceptance counted where drafts were made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.bench.measure import Sample, TimedDrafter, acceptance, measure
from engine.bench.workloads import prompts
from engine.drafters.ngram import NgramDrafter
from engine.engine import Engine
from engine.turn import TurnOptions


def test_a_sample_holds_the_reply_and_its_parts(embedded: Engine) -> None:
    prompt = prompts(embedded, "agent", quick=True)[0]
    plain, fast = (measure(embedded, prompt, drafter) for drafter in ("none", "mtp+ngram"))
    assert plain.tokens == fast.tokens and plain.steps == len(plain.tokens) and not plain.runs
    assert fast.steps < plain.steps and fast.runs
    counted = fast.steps + sum(accepted for _, accepted in fast.runs)
    assert counted - len(fast.tokens) in (0, 1)  # an end inside an accepted run leaves out the token after it
    for sample in (plain, fast):
        assert 0 < sample.draft_s < sample.decode_s and sample.prefill_s > 0


def test_every_sample_starts_cold(embedded: Engine) -> None:
    prompt = prompts(embedded, "agent", quick=True)[0]
    kept = embedded.open(prompt.tokens, TurnOptions())
    for _ in kept.sequence.prefill():
        pass
    embedded.close(kept)
    measure(embedded, replace(prompt, limit=1), "none")
    assert len(embedded.prefixes) == 0


def test_a_timed_drafter_is_the_one_it_wraps() -> None:
    inner, plain = NgramDrafter(), NgramDrafter()
    timed = TimedDrafter(inner)
    for drafter in (timed, plain):
        drafter.begin([])
        drafter.extend([1, 2, 3, 4, 5, 6, 7, 8] * 4, None)
        drafter.truncate(30)
        drafter.feedback(4, 0)
    assert timed.name == "ngram" and timed.propose(7) == plain.propose(7) != []
    assert timed.seconds > 0


def test_acceptance_by_position() -> None:
    sample = Sample((1,), 1.0, 1.0, 0.5, 3, ((3, 3), (3, 1), (1, 0)))
    assert acceptance([sample], 4) == [pytest.approx(2 / 3), 0.5, 0.5, None]
