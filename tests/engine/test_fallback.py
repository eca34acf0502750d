"""The way back: which level is chosen, and that L2 and L3 leave what plain decoding with a full cache would have."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from engine.codecs.spec import FULL
from engine.compressed import CompressedCache
from engine.engine import Engine, EngineOptions
from engine.fallback import best_level, fall_back
from engine.memory import Budget
from engine.sampler import SamplingParams
from engine.turn import Turn, TurnOptions
from tests.engine.test_lossless import ids, state_hash

SAMPLED = SamplingParams(temperature=0.9, seed=11)
PROMPT = ids(180) + ids(61)


@pytest.fixture
def engine(tiny_folder: Path) -> Engine:
    engine = Engine(tiny_folder)
    engine.tokenizer.eos_ids = frozenset()
    return engine


def opened(engine: Engine, codec: str, drafter: str = "none", count: int = 60, prompt: list[int] = PROMPT) -> Turn:
    turn = engine.open(prompt, TurnOptions(SAMPLED, drafter, max_tokens=count, audit_every=0, codec=codec))
    list(turn.sequence.prefill())
    return turn


def run(turn: Turn, tokens: int | None = None) -> Turn:
    while not turn.ended and (tokens is None or len(turn.generated) < tokens):
        turn.step()
    return turn


def forced(engine: Engine, tokens: list[int]) -> Turn:
    """A plain/full turn that has said exactly these tokens."""
    turn = opened(engine, FULL)
    for token in tokens:
        rows = turn.sequence.decode()
        turn.sequence.commit([token], rows.hidden, speculative=False)
        turn.penalties.extend([token])
    return turn


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("keep", [0, 1, 20, 37])
def test_l3_continues_as_plain_full_does(engine: Engine, keep: int, trusted: bool) -> None:
    turn = run(opened(engine, "k4v4", "mtp+ngram"), 38)
    kept = turn.generated[:keep]
    report = turn.rewind(keep, "none", trusted=trusted, codec=FULL)
    assert (report.level, report.codec) == ("L3", FULL)
    assert report.rebuilt == len(PROMPT) - 1 + keep
    reference = forced(engine, kept)
    assert state_hash(turn) == state_hash(reference)
    assert run(turn).generated == run(reference).generated
    assert turn.sequence.state.header == FULL
    assert all(cache.codec == FULL for cache in turn.sequence.state.kv)


def test_l3_cures_a_damaged_cache(engine: Engine) -> None:
    """Somebody flips codes behind our back: plain/k4v4 goes wrong with it, L3 does not."""
    turn = run(opened(engine, "k4v4"), 20)
    for cache in turn.sequence.state.kv:
        assert isinstance(cache, CompressedCache)
        with torch.inference_mode():
            cache.key_codes[0, :, 8:200].bitwise_not_()
    damaged = run(turn, 30).generated
    turn.rewind(20, "mtp", trusted=True, codec=FULL)
    reference = forced(engine, damaged[:20])
    assert run(turn).generated == run(reference).generated != damaged


def test_a_later_rewind_needs_no_second_prefill(engine: Engine) -> None:
    turn = run(opened(engine, "k4v4"), 20)
    turn.rewind(20, "none", trusted=False, codec=FULL)
    run(turn, 40)
    assert turn.rewind(30, "none", trusted=False, codec=FULL).level == "L0"
    assert turn.rewind(3, "none", trusted=True, codec=FULL).rebuilt <= 8 + len(PROMPT) % 64


def test_l1_is_what_is_left_without_room(tiny_folder: Path) -> None:
    """Codes stay, what comes is raw; drafts still change nothing; the sequence is no source for a prefix."""
    outs = []
    for drafter in ("none", "mtp+ngram"):
        engine = Engine(tiny_folder, EngineOptions(cache_bytes=10_000))
        engine.tokenizer.eos_ids = frozenset()
        turn = run(opened(engine, "k4v4", count=200), 20)
        report = turn.rewind(18, drafter, trusted=True, codec=FULL)
        assert (report.level, report.codec) == ("L1", "k4v4")
        coded = [cache.coded for cache in turn.sequence.state.kv if isinstance(cache, CompressedCache)]
        run(turn)
        assert [c.coded for c in turn.sequence.state.kv if isinstance(c, CompressedCache)] == coded == [256] * 2
        outs.append((turn.generated, state_hash(turn)))
        engine.close(turn)
        assert len(engine.prefixes) == 0
        assert opened(engine, "k4v4").cached_tokens == 0
    assert outs[0] == outs[1]


def test_after_l1_new_rows_are_as_computed(tiny_folder: Path) -> None:
    """Rows behind the last codes are bit for bit what the model computed, rewinds in between included."""
    engine = Engine(tiny_folder, EngineOptions(cache_bytes=0))
    engine.tokenizer.eos_ids = frozenset()
    rng = random.Random(3)
    turn = run(opened(engine, "k4v4", count=150), 20)
    turn.rewind(20, "ngram", trusted=False, codec=FULL)
    expected = run(turn).generated
    for _ in range(3):
        turn.rewind(rng.randint(18, 140), "mtp", trusted=rng.random() < 0.5)
        assert run(turn).generated == expected
    cache = turn.sequence.state.kv[0]
    assert isinstance(cache, CompressedCache)
    assert cache.tail is not None
    rows = cache.tail.committed(turn.sequence.length - cache.coded)[0]
    assert rows.shape[1] > 100
    assert rows.unique(dim=1).shape[1] == rows.shape[1]


def test_the_level_is_the_best_that_fits(engine: Engine) -> None:
    sequence = opened(engine, "k4v4").sequence
    assert best_level(sequence, "k4v4") == "L0"
    assert best_level(sequence, FULL) == "L3"
    with pytest.raises(ValueError, match=r"^codec: cannot switch from 'k4v4' to 'k8v8'"):
        best_level(sequence, "k8v8")
    needed = engine.model.cache_bytes(FULL, sequence.longest)
    for limit, level in ((needed, "L3"), (needed - 1, "L1")):
        sequence.budget = Budget(engine.model.device, limit)
        assert best_level(sequence, FULL) == level
    sequence.budget = Budget(engine.model.device, needed)
    sequence.restore(sequence.length, trusted=False)
    assert sum(cache.nbytes for cache in sequence.state.kv) == needed, "what was promised is what is taken"


def test_the_engine_says_what_fits(tiny_folder: Path) -> None:
    engine = Engine(tiny_folder, EngineOptions(cache_bytes=600_000))
    assert engine.can_fit(FULL, 500)
    assert not engine.can_fit(FULL, 1000)
    assert engine.can_fit("k4v4", 1000)
    assert Engine(tiny_folder).can_fit(FULL, 1000)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("codec", ["full", "k4v4"])
def test_where_the_codec_stays_a_clean_way_back_takes_nothing_over(engine: Engine, codec: str) -> None:
    """For want of room or because the cache is full already: all is computed again by the same rules."""
    turns = [opened(engine, codec, count=40) for _ in range(2)]
    for turn in turns:
        run(turn, 12)
    damaged, clean = (turn.sequence for turn in turns)
    with torch.inference_mode():
        for cache in damaged.state.kv:
            for tensor in cache.tensors()[:2]:
                tensor.zero_()
    damaged.sound = False
    back = fall_back(damaged, damaged.length - 4, codec, trusted=True, clean=True)
    assert (back.level, back.rebuilt) == ("L3", damaged.length)
    assert damaged.sound
    assert damaged.codec == codec
    fall_back(clean, damaged.length, codec, trusted=True)
    assert damaged.state.fingerprint() == clean.state.fingerprint()
    assert damaged.tokens == clean.tokens
