"""Shadow checks: what they find, when they are made, and that they change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checks import CacheChecks, doubt
from engine.engine import Engine, EngineOptions
from engine.prefix import PrefixStore
from engine.shadow_check import compare
from tests.engine.test_fallback import opened, run
from tests.engine.test_lossless import ids, state_hash


def test_agreement_and_divergence() -> None:
    checks = CacheChecks()
    law = torch.tensor([2.0, 1.0, 0.0])
    same = checks.compare("k4v4", 300, lambda: law, lambda: law + 5)
    assert (same.top1, same.kl) == (True, pytest.approx(0.0, abs=1e-12))
    other = checks.compare("k4v4", 400, lambda: law, lambda: law.flip(0))
    assert not other.top1
    expected = float((law.softmax(-1) * (law - law.flip(0))).sum())
    assert other.kl == pytest.approx(expected, rel=1e-6)
    checks.compare("k4v4", 3000, lambda: law, lambda: law)
    found = [(a.codec, a.below, a.checks, a.top1) for a in checks.agreements()]
    assert found == [("k4v4", 512, 2, 0.5), ("k4v4", 4096, 1, 1.0)]
    assert checks.agreements()[0].kl == pytest.approx(expected / 2, rel=1e-6), "the mean"


def test_the_budget_is_kept() -> None:
    checks = CacheChecks(share=0.03)
    due = []
    for _ in range(350):
        due.append(checks.is_due())
        checks.decoded(1.0)
        if due[-1]:
            checks.spent_ms += 3.0
    assert [i for i, now in enumerate(due) if now] == [100, 200, 300]
    checks._dearest_ms = 5.0
    checks.decoded(50.0)
    assert not checks.is_due(), "it may be as dear as the dearest so far"


def test_checks_are_made_at_prompts_ends_and_change_nothing(tiny_folder: Path) -> None:
    outs = []
    for forwards in (0, 10**4):
        engine = Engine(tiny_folder, EngineOptions(shadow_bytes=1 << 28))
        engine.tokenizer.eos_ids = frozenset()
        for _ in range(forwards):
            engine.checks.decoded(100.0)
        for seed in (1, 2):
            engine.prefixes = PrefixStore(engine._new_sequence)
            turn = run(opened(engine, "k4v4", prompt=ids(200, seed), count=10))
        outs.append((turn.generated, state_hash(turn)))
        found = engine.checks.agreements()
        if not forwards:
            assert found == []
            continue
        (agreement,) = found
        assert (agreement.codec, agreement.below, agreement.checks) == ("k4v4", 256, 2)
        assert 0 < agreement.kl < 0.5
        assert engine.checks.spent_ms > 0
    assert outs[0] == outs[1]


def test_decode_time_is_what_the_engine_reports(tiny_folder: Path) -> None:
    engine = Engine(tiny_folder)
    turn = opened(engine, "full", count=3)
    engine.step([turn])
    assert engine.checks.decoded_ms > 0


def test_a_check_is_told_with_the_first_step_and_once(tiny_folder: Path) -> None:
    engine = Engine(tiny_folder, EngineOptions(shadow_bytes=1 << 28))
    engine.tokenizer.eos_ids = frozenset()
    for _ in range(1000):
        engine.checks.decoded(100.0)
    turn = opened(engine, "k4v4", prompt=ids(200, 1), count=6)
    shadows = [turn.step().shadow for _ in range(3)]
    (agreement,) = engine.checks.agreements()
    assert shadows[0] is not None
    assert (shadows[0].position, shadows[0].identical, shadows[0].kl) == (0, False, agreement.kl)
    assert shadows[1:] == [None, None]


def test_doubt_is_the_chance_that_two_draws_differ() -> None:
    assert doubt(torch.zeros(4)) == pytest.approx(0.75)
    assert doubt(torch.tensor([0.0, 100.0])) == pytest.approx(0.0)
    assert doubt(torch.tensor([0.0, torch.nan])) == 1.0


def test_noise_on_every_logit_costs_half_its_variance_times_the_doubt() -> None:
    generator = torch.Generator().manual_seed(1)
    for sharpness in (0.5, 2.0, 6.0):
        clean = torch.randn(500, generator=generator) * sharpness
        kl = [compare(clean, clean + 0.2 * torch.randn(500, generator=generator))[1] for _ in range(300)]
        assert sum(kl) / len(kl) == pytest.approx(0.02 * doubt(clean), rel=0.15)
