"""The clean recomputation equals a sound cache in every bit, whatever way the sequence went, and sees a damaged one."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch

from engine.engine import Engine, EngineOptions
from engine.faults import Fault
from engine.reports import ShadowReport
from engine.sampler import SamplingParams
from engine.shadow_check import compare
from engine.turn import Turn, TurnOptions


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Engine:
    return Engine(tiny_folder)


def prompt(count: int = 150, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.choice(b"abcd\n") for _ in range(count)]


def opened(engine: Engine, options: TurnOptions, seed: int = 0) -> Turn:
    turn = engine.open(prompt(seed=seed), options)
    for _ in turn.sequence.prefill():
        pass
    return turn


def shadows(turn: Turn, tokens: int) -> list[ShadowReport]:
    found = []
    while not turn.ended and len(turn.generated) < tokens:
        report = turn.step()
        found += [report.shadow] if report.shadow else []
    return found


@pytest.mark.parametrize("drafter", ["none", "ngram", "mtp", "mtp+ngram"])
def test_a_sound_cache_is_identical(engine: Engine, drafter: str) -> None:
    options = TurnOptions(SamplingParams(temperature=0.7, seed=4), drafter, max_tokens=70, shadow_every=16)
    turn = opened(engine, options)
    found = shadows(turn, 70)
    engine.close(turn)
    assert len(found) >= 3
    assert all(each.identical and each.agrees and each.kl == 0 for each in found)
    assert [b.position - a.position >= 16 for a, b in itertools.pairwise(found)] == [True] * (len(found) - 1)


def test_it_is_off_by_default_and_changes_no_token(engine: Engine) -> None:
    texts = []
    for every in (0, 5):
        turn = opened(engine, TurnOptions(SamplingParams(temperature=1.0, seed=2), "ngram", 40, shadow_every=every))
        found = shadows(turn, 40)
        assert bool(found) is bool(every)
        texts.append((turn.generated, turn.sequence.state.fingerprint()))
        engine.close(turn)
    assert TurnOptions().shadow_every == 0
    assert texts[0] == texts[1]


def test_it_follows_a_rewind_and_a_reused_prefix(engine: Engine) -> None:
    options = TurnOptions(
        SamplingParams(temperature=1.0, seed=3, logit_bias=((257, -100.0),)), "mtp+ngram", max_tokens=60, shadow_every=8
    )
    turn = opened(engine, options, seed=8)
    shadows(turn, 30)
    turn.rewind(11, "ngram", trusted=False)
    found = shadows(turn, 60)
    engine.close(turn)
    again = opened(engine, options, seed=8)
    assert again.cached_tokens > 0
    found += shadows(again, 30)
    engine.close(again)
    assert len(found) >= 4
    assert all(each.identical for each in found)


@pytest.mark.parametrize("fault", [Fault.KEYS_SCALED, Fault.TILE_LOST])
def test_a_damaged_cache_is_seen_where_an_audit_is_blind(tiny_folder: Path, fault: Fault) -> None:
    engine = Engine(tiny_folder, EngineOptions(fault=fault))
    turn = opened(
        engine, TurnOptions(SamplingParams(temperature=1.0, seed=1), "ngram", 80, audit_every=1, shadow_every=8)
    )
    audits, found = [], []
    while not turn.ended:
        report = turn.step()
        audits += [report.audit] if report.audit else []
        found += [report.shadow] if report.shadow else []
    assert audits
    assert all(audit.mismatch is None for audit in audits)
    assert found
    assert not any(each.identical for each in found)
    assert all(each.kl > 0 for each in found)


def test_what_is_compared() -> None:
    a, b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 2.0, 1.0])
    agrees, kl = compare(a, b)
    assert not agrees
    p, q = a.softmax(0), b.softmax(0)
    assert kl == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-5)
    assert compare(a, a + 1)[0]
    assert compare(a, a + 1)[1] < 1e-12
    assert compare(a, torch.tensor([0.0, torch.nan, 5.0])) == (False, float("inf"))
