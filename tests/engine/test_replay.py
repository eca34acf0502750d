"""A replay says what the response said, however it is run, and leaves nothing behind in the engine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch

from engine.bench.workloads import Prompt, prompts
from engine.engine import EMBEDDED, Engine, EngineOptions
from engine.errors import ContextOverflow
from engine.faults import Fault
from engine.kv import KVCache
from engine.replay import Replay
from engine.sampler import SamplingParams
from engine.turn import Turn, TurnOptions

TOKENS = 24


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(EMBEDDED)


@pytest.fixture(scope="module")
def turns(engine: Engine) -> list[Prompt]:
    """Successive turns of one agent: each prompt begins with the one before it."""
    return prompts(engine, "agent", True)


def options(drafter: str = "mtp+ngram", codec: str = "full") -> TurnOptions:
    return TurnOptions(SamplingParams(temperature=0.7, seed=11), drafter, TOKENS, codec=codec)


def finish(turn: Turn) -> list[int]:
    while not turn.ended:
        turn.step()
    return turn.generated


def served(engine: Engine, prompt: tuple[int, ...], wanted: TurnOptions) -> tuple[list[int], int]:
    """As the server would: through the store of prefixes."""
    turn = engine.open(prompt, wanted)
    for _ in turn.sequence.prefill():
        pass
    said, cached = finish(turn), turn.cached_tokens
    engine.close(turn)
    return said, cached


def again(engine: Engine, prompt: tuple[int, ...], wanted: TurnOptions, **how: object) -> tuple[Replay, list[int]]:
    replay = Replay(engine, prompt, wanted, **how)  # type: ignore[arg-type]
    for _ in replay.prepare():
        pass
    return replay, finish(replay.turn)


def kept(engine: Engine) -> list[tuple[int, str]]:
    """What the store holds, in its order: identity and bits."""
    store = engine.prefixes
    return [(id(s), s.state.fingerprint()) for s in (*store._kept, *store._lent)]


@pytest.mark.parametrize("codec", ["full", "k4v4"])
def test_however_it_is_run_the_same_is_said(engine: Engine, turns: list[Prompt], codec: str) -> None:
    engine.prefixes.clear()
    served(engine, turns[0].tokens, options(codec=codec))
    prompt = turns[1].tokens
    said, cached = served(engine, prompt, options(codec=codec))
    assert cached > 100
    before = kept(engine)
    for drafter, reuse, forced in product(("none", "mtp+ngram"), (0, cached), (0, 5, 13)):
        replay, tokens = again(engine, prompt, options(drafter, codec), reuse=reuse, forced=said[:forced])
        assert tokens == said, (drafter, reuse, forced)
        assert (replay.prefix, replay.turn.cached_tokens) == (("kept", cached) if reuse else ("cold", 0))
        assert len(replay.texts) == forced
    assert kept(engine) == before
    engine.prefixes.clear()
    replay, tokens = again(engine, prompt, options("none", codec), reuse=cached)
    assert (tokens, replay.prefix, replay.turn.cached_tokens) == (said, "made", cached)
    assert not kept(engine)


def test_forced_tokens_have_their_text_and_reach_penalties(engine: Engine, turns: list[Prompt]) -> None:
    wanted = TurnOptions(SamplingParams(frequency_penalty=2.0, repetition_penalty=2.0), "none", 60)
    said, _ = served(engine, turns[0].tokens, wanted)
    replay, tokens = again(engine, turns[0].tokens, wanted, forced=said[:40])
    assert tokens == said
    assert "".join(replay.texts) == engine.tokenizer.decode(said[:40])


def test_a_kept_prefix_that_is_damaged_is_met_again_and_only_there(engine: Engine, turns: list[Prompt]) -> None:
    engine.prefixes.clear()
    served(engine, turns[0].tokens, options())
    sound, cached = served(engine, turns[1].tokens, options())
    poison(engine)
    replay, tokens = again(engine, turns[1].tokens, options("none"), reuse=cached)
    assert replay.prefix == "kept"
    assert tokens != sound
    assert again(engine, turns[1].tokens, options("none"))[1] == sound
    engine.prefixes.clear()


def poison(engine: Engine) -> None:
    """Values of the first tile of every kept sequence have the wrong sign, and too much of it."""
    for sequence in engine.prefixes._kept:
        for cache in sequence.state.kv:
            assert isinstance(cache, KVCache)
            keys, values = (x.transpose(1, 2).flatten(0, 1) for x in cache.tiles(0, 1))
            cache.write(0, keys, values * -3.0)


def test_the_planted_fault_strikes_again(engine: Engine, turns: list[Prompt]) -> None:
    faulty = Engine(EMBEDDED, EngineOptions(fault=Fault.VERIFY_IGNORES_CACHE))
    plain = again(engine, turns[0].tokens, options("none"))[1]
    assert again(faulty, turns[0].tokens, options("none"))[1] == plain
    assert again(faulty, turns[0].tokens, options())[1] != plain


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reuse": -1}, "reuse: "),
        ({"reuse": 10_000}, "reuse: "),
        ({"forced": [-1]}, "ends a turn"),
    ],
)
def test_what_cannot_be_run_is_refused(
    engine: Engine, turns: list[Prompt], change: dict[str, object], said: str
) -> None:
    if "forced" in change:
        change = {"forced": [min(engine.tokenizer.eos_ids)]}
    with pytest.raises(ValueError, match=said):
        again(engine, turns[0].tokens, options(), **change)


@pytest.mark.parametrize(
    "make",
    [
        lambda engine, prompt: Replay(engine, prompt * 9, options()),
        lambda engine, prompt: Replay(engine, prompt, options(), forced=[1] * engine.model.config.max_context),
    ],
)
def test_what_is_too_long_is_refused_before_anything_runs(
    engine: Engine, turns: list[Prompt], make: Callable[[Engine, tuple[int, ...]], Replay]
) -> None:
    with pytest.raises(ContextOverflow):
        make(engine, turns[0].tokens * 9)
