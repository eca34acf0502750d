"""A full-precision shadow: the way back to exactly what plain/full has, for the price of the response alone."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from engine.codecs.spec import FULL, header
from engine.engine import Engine, EngineOptions
from engine.kv import KVCache
from engine.prefix import PrefixStore
from engine.shadow import Shadow, ShadowBudget
from engine.turn import Turn
from tests.engine.test_fallback import PROMPT, SAMPLED, forced, opened, run
from tests.engine.test_lossless import ids, state_hash
from tests.engine.zoo import write

PLENTY = 1 << 30


@pytest.fixture(scope="module", params=["hybrid", "attention alone"])
def folder(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder if request.param == "hybrid" else write(tmp_path_factory.mktemp("shadow"), "qwen3")


def engine_of(folder: Path, shadow_bytes: int = PLENTY) -> Engine:
    engine = Engine(folder, EngineOptions(shadow_bytes=shadow_bytes))
    engine.tokenizer.eos_ids = frozenset()
    return engine


def last_rows(turn: Turn) -> tuple[list[int], str]:
    return turn.generated, state_hash(turn)


@pytest.mark.parametrize("keep", [0, 1, 35])
@pytest.mark.parametrize("trusted", [True, False])
def test_l2_continues_as_plain_full_does(folder: Path, keep: int, trusted: bool) -> None:
    engine = engine_of(folder)
    turn = run(opened(engine, "k4v4", engine.drafters[-1]), 36)
    kept = turn.generated[:keep]
    report = turn.rewind(keep, "none", trusted=trusted, codec=FULL)
    assert (report.level, report.codec) == ("L2", FULL)
    assert report.rebuilt == keep, "the prompt is not computed again"
    reference = forced(Engine(folder), kept)
    reference.sequence.model = turn.sequence.model
    assert state_hash(turn) == state_hash(reference)
    assert turn.sequence.state.shadow is None
    engine.tokenizer.eos_ids = frozenset()
    reference.tokenizer = engine.tokenizer
    assert run(turn).generated == run(reference).generated


def test_drafts_still_change_nothing(folder: Path) -> None:
    engine = engine_of(folder)
    outs = []
    for drafter in engine.drafters:
        engine.prefixes = PrefixStore(engine._new_sequence)
        turn = run(opened(engine, "k4v4", drafter))
        assert turn.sequence.state.header == header("k4v4", full_prefill=True)
        outs.append(last_rows(turn))
    assert outs == outs[:1] * len(outs)


def test_a_prefix_hit_is_a_cold_start(folder: Path) -> None:
    engine = engine_of(folder)
    first = run(opened(engine, "k4v4"))
    prompt = [*first.sequence.tokens, *ids(140, 6)]
    engine.close(first)
    warm = run(opened(engine, "k4v4", prompt=prompt))
    assert warm.cached_tokens >= 192
    engine.prefixes = PrefixStore(engine._new_sequence)
    cold = run(opened(engine, "k4v4", prompt=prompt))
    assert cold.cached_tokens == 0
    assert last_rows(warm) == last_rows(cold)


def test_a_fork_is_a_cold_start(folder: Path) -> None:
    engine = engine_of(folder)
    first = opened(engine, "k4v4")
    other = run(opened(engine, "k4v4", prompt=[*PROMPT[:230], *ids(40, 8)]))
    assert other.cached_tokens >= 192
    assert first.sequence.state.shadow is not None
    cold = run(opened(engine_of(folder), "k4v4", prompt=[*PROMPT[:230], *ids(40, 8)]))
    assert last_rows(other) == last_rows(cold)


@pytest.mark.parametrize(
    ("shadow_bytes", "trusted"), [(PLENTY, True), pytest.param(PLENTY, False, marks=pytest.mark.slow), (1, True)]
)
def test_rewinding_to_where_raw_rows_are_gone(folder: Path, shadow_bytes: int, trusted: bool) -> None:
    """The window has moved on by half and more; rows of the prompt must not be computed again from codes."""
    engine = engine_of(folder, shadow_bytes)
    turn = run(opened(engine, "k4v4", engine.drafters[-1], count=150))
    said = last_rows(turn)
    assert (turn.sequence.state.shadow is None) == (shadow_bytes == 1)
    for keep in (140, 3):
        turn.rewind(keep, "ngram", trusted=trusted)
        assert last_rows(run(turn)) == said


def test_without_room_there_is_no_shadow_and_no_reuse(folder: Path) -> None:
    engine = engine_of(folder, shadow_bytes=1000)
    turn = run(opened(engine, "k4v4"), 5)
    assert turn.sequence.state.shadow is None
    assert turn.rewind(5, "none", trusted=False, codec=FULL).level == "L3"
    again = opened(engine, "k4v4", prompt=[*PROMPT, 7])
    assert again.cached_tokens == 0


def test_shadows_are_counted_and_freed(folder: Path) -> None:
    engine = engine_of(folder)
    assert engine.shadows is not None
    turn = opened(engine, "k4v4")
    shadow = turn.sequence.state.shadow
    assert shadow is not None
    layers = sum(cache.codec != FULL for cache in turn.sequence.state.kv)
    config = engine.model.config
    assert shadow.nbytes == layers * 2 * 256 * config.num_kv_heads * config.head_dim * 4
    assert engine.shadows.used == shadow.nbytes
    counted = engine.memory().sequences
    assert counted >= sum(cache.nbytes for cache in turn.sequence.state.kv) + shadow.nbytes
    del shadow
    turn.rewind(0, "none", trusted=False, codec=FULL)
    gc.collect()
    assert engine.shadows.used == 0


def test_a_shadow_is_an_independent_copy() -> None:
    cache = KVCache(2, 8, torch.float32, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(300, 2, 8, generator=generator) for _ in range(2)]
    cache.write(0, rows[0], rows[1])
    budget = ShadowBudget(10**6)
    shadow = budget.keep([cache, None], 300)
    assert shadow is not None
    cache.truncate(0)
    (back, nothing) = shadow.restored(torch.device("cpu"))
    assert nothing is None
    assert back is not None
    assert torch.equal(back.committed(300)[0], rows[0].transpose(0, 1))
    short = Shadow([cache], 100)
    cache.write(0, rows[0], rows[1])
    assert not short.restored(torch.device("cpu"))[0].keys[0, :, 100:].any()  # type: ignore[union-attr]
    back.truncate(0)
    fork = shadow.fork(100)
    assert (fork.length, len(fork.tensors())) == (100, 2)
    assert torch.equal(fork.restored(torch.device("cpu"))[0].committed(100)[1], rows[1][:100].transpose(0, 1))  # type: ignore[union-attr]
    assert budget.count(Shadow([back], 256)) is not None
    assert ShadowBudget(10).count(shadow) is None
    assert SAMPLED.seed == 11
