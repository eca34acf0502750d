"""Shadow checks: what they find, when they are made, and that they change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.checks import CacheChecks
from engine.engine import Engine, EngineOptions
from engine.prefix import PrefixStore
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
