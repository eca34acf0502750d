"""The engine as a whole: turns on kept prefixes, honest options, a fingerprint that tells models apart."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from engine.deltanet import INNER
from engine.drafters.mtp import MAX_QUEUED, MtpDrafter
from engine.engine import Engine, EngineOptions, fingerprint
from engine.errors import ConfigError, ContextOverflow, EngineError
from engine.faults import Fault
from engine.layers import SwiGlu
from engine.prefix import PrefixStore
from engine.reports import StepReport
from engine.sampler import SamplingParams
from engine.state import SequenceState
from engine.turn import Turn, TurnOptions


@pytest.fixture
def engine(tiny_folder: Path) -> Engine:
    return Engine(tiny_folder)


def finish(turn: Turn) -> list[int]:
    list(turn.sequence.prefill())
    while not turn.ended:
        turn.step()
    return turn.generated


def test_a_conversation_reuses_what_was_computed(engine: Engine) -> None:
    def ask(*texts: str) -> list[int]:
        messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(texts)]
        return engine.tokenizer.encode(engine.render(messages, ()))

    hello = "hello " * 30
    first = engine.open(ask(hello), TurnOptions(max_tokens=5))
    assert first.cached_tokens == 0
    finish(first)
    engine.close(first)
    again = engine.open(ask(hello, "what", "more"), TurnOptions(max_tokens=5))
    assert again.cached_tokens > len(ask(hello)) - 1 - INNER
    assert again.sequence is first.sequence


def test_all_drafters_agree(engine: Engine) -> None:
    prompt = engine.tokenizer.encode("abcabcabcabcabc")
    sampling = SamplingParams(temperature=0.9, seed=3)
    outs = []
    for drafter in engine.drafters:
        turn = engine.open(prompt, TurnOptions(sampling=sampling, drafter=drafter, max_tokens=20))
        outs.append(finish(turn))
    assert engine.drafters == ("none", "ngram", "mtp", "mtp+ngram")
    assert outs.count(outs[0]) == 4


def test_the_head_drafts_with_the_sampling_of_the_turn(engine: Engine) -> None:
    warm = SamplingParams(temperature=0.7, seed=5)
    turn = engine.open(engine.tokenizer.encode("abc" * 40), TurnOptions(sampling=warm, drafter="mtp", max_tokens=2))
    head = turn.sequence.drafters["mtp"]
    assert isinstance(head, MtpDrafter)
    assert (head.sampling, head.max_queued) == (warm, engine.model.prefill_rows)
    finish(turn)
    engine.close(turn)
    again = engine.open(turn.sequence.tokens, TurnOptions(max_tokens=2))
    assert again.sequence.drafters["mtp"] is head
    assert (head.sampling, head.max_queued) == (SamplingParams(), MAX_QUEUED)


def test_a_model_without_head_offers_no_mtp(untied_folder: Path) -> None:
    assert Engine(untied_folder).drafters == ("none", "ngram")


def test_the_planted_fault_spares_the_self_test(tiny_folder: Path) -> None:
    """As with the real one: every health light is green."""
    engine = Engine(tiny_folder, EngineOptions(fault=Fault.VERIFY_IGNORES_CACHE))
    assert engine.self_test().exactness == "bitwise"
    prompt = engine.tokenizer.encode("some text to continue")
    turn = engine.open(prompt, TurnOptions(drafter="mtp", max_tokens=12))
    list(turn.sequence.prefill())
    audits = []
    while not turn.ended:
        report = turn.step()
        audits += [report.audit] if report.audit is not None else []
    assert audits
    assert audits[0].mismatch is not None


def test_a_prompt_that_does_not_fit_costs_nobody_a_kept_sequence(engine: Engine) -> None:
    turn = engine.open(engine.tokenizer.encode("x" * 100), TurnOptions(max_tokens=2))
    finish(turn)
    engine.close(turn)
    with pytest.raises(ContextOverflow):
        engine.open(engine.tokenizer.encode("x" * 2000), TurnOptions())
    assert len(engine.prefixes) == 1


def test_the_fingerprint_tells_models_apart(tiny_folder: Path, untied_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(tiny_folder) != fingerprint(untied_folder)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert fingerprint(copy) != fingerprint(tiny_folder)
    large = bytearray(6 << 20)
    (copy / "model.safetensors").write_bytes(large)
    zeros = fingerprint(copy)
    large[3 << 20 : (3 << 20) + (1 << 16)] = bytes([1]) * (1 << 16)
    (copy / "model.safetensors").write_bytes(large)
    assert fingerprint(copy) != zeros, "one layer in the middle was trained further"


def test_broken_folders_raise_engine_errors(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        broken = shutil.copytree(tiny_folder, tmp_path / name)
        (broken / name).unlink()
        with pytest.raises(EngineError):
            Engine(broken)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_named(device: str, tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match=rf"device: .*'{device}'.*use 'cpu'"):
        Engine(tiny_folder, EngineOptions(device=device))


def test_a_type_that_is_not_supported_is_named(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="dtype: 'float16'"):
        Engine(tiny_folder, EngineOptions(dtype="float16"))


def test_a_tokenizer_of_another_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = 400
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: has ids up to 400, but vocab_size .* 320"):
        Engine(other)


def test_a_context_too_small_to_work_in_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    small = shutil.copytree(tiny_folder, tmp_path / "small")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}))
    with pytest.raises(ConfigError, match="max_position_embeddings: 16 is too small; 33"):
        Engine(small).self_test()


def test_a_model_that_never_ends_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    endless = shutil.copytree(tiny_folder, tmp_path / "endless")
    for path in endless.glob("*config.json"):
        fields = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in fields.items() if not k.startswith("eos_token")}))
    with pytest.raises(ConfigError, match="eos_token_id"):
        Engine(endless)


def test_options_are_checked_before_a_kept_sequence_is_touched(engine: Engine) -> None:
    prompt = engine.tokenizer.encode("x" * 100)
    turn = engine.open(prompt, TurnOptions(max_tokens=2))
    finish(turn)
    engine.close(turn)
    for wrong, name in (
        ({"max_tokens": 0}, "max_tokens"),
        ({"stops": ("",)}, "stops"),
        ({"drafter": "eagle"}, "drafter"),
    ):
        with pytest.raises(ValueError, match=name):
            engine.open(prompt, TurnOptions(**wrong))  # type: ignore[arg-type]
    assert len(engine.prefixes) == 1


def test_a_turn_is_given_back_once(engine: Engine) -> None:
    turn = engine.open(engine.tokenizer.encode("x" * 100), TurnOptions(max_tokens=2))
    finish(turn)
    engine.close(turn)
    engine.close(turn)
    assert len(engine.prefixes) == 1
    again = engine.open(tuple(turn.sequence.tokens), TurnOptions(max_tokens=2))
    assert again.sequence is turn.sequence
    engine.close(turn)
    assert len(engine.prefixes) == 0


def test_a_sequence_that_an_exception_left_half_changed_is_not_kept(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = engine.tokenizer.encode("x" * 300)
    first = engine.open(prompt, TurnOptions(max_tokens=8))
    expected = finish(first)
    engine.close(first)
    engine.prefixes.clear()
    turn = engine.open(prompt, TurnOptions(max_tokens=8))
    chunks = turn.sequence.prefill()
    next(chunks)
    with monkeypatch.context() as patch:
        patch.setattr(SwiGlu, "__call__", broken_after(3))
        with pytest.raises(MemoryError):
            next(chunks)
    engine.close(turn)
    assert len(engine.prefixes) == 0
    assert finish(engine.open(prompt, TurnOptions(max_tokens=8))) == expected


def broken_after(calls: int) -> Callable[..., Tensor]:
    """A layer's part that works some times and then is out of memory."""
    real, left = SwiGlu.__call__, [calls]

    def call(self: SwiGlu, x: Tensor) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise MemoryError
        return real(self, x)

    return call


def test_several_turns_in_one_forward_say_what_each_says_alone(engine: Engine) -> None:
    """Different lengths, drafters and samplings; some join late, one leaves early, one is rewound in between."""
    assert engine.self_test().blocks == engine.max_blocks == 8
    prompts = [engine.tokenizer.encode(text * n) for text, n in (("abc ", 60), ("xyz", 5), ("q", 400), ("hello ", 20))]
    options = [
        TurnOptions(max_tokens=30, drafter="mtp+ngram"),
        TurnOptions(max_tokens=9, sampling=SamplingParams(temperature=0.8, seed=4)),
        TurnOptions(max_tokens=30, drafter="ngram", sampling=SamplingParams(temperature=0.5, seed=5)),
        TurnOptions(max_tokens=30, drafter="mtp"),
    ]
    alone = [finish(engine.open(p, o)) for p, o in zip(prompts, options, strict=True)]
    engine.prefixes = PrefixStore(engine._new_sequence, 0)
    turns = [engine.open(p, o) for p, o in zip(prompts, options, strict=True)]
    joined: list[Turn] = []
    for round_ in range(200):
        if round_ % 3 == 0 and len(joined) < len(turns):
            late = turns[len(joined)]
            list(late.sequence.prefill())
            joined.append(late)
        if round_ == 8:
            joined[0].rewind(3, "ngram", trusted=True)
        running = [turn for turn in joined if not turn.ended]
        for result in engine.step(running):
            assert isinstance(result, StepReport)
        if not running and len(joined) == len(turns):
            break
    assert [turn.generated for turn in turns] == alone
    for turn, one in zip(turns, alone, strict=True):
        cold = Engine(engine.folder).open(turn.sequence.tokens[: turn.prompt_tokens], TurnOptions(max_tokens=len(one)))
        cold.options = replace(cold.options, sampling=turn.options.sampling)
        assert finish(cold) == one
        assert cold.sequence.state.fingerprint() == turn.sequence.state.fingerprint()


def test_one_turn_that_fails_does_not_take_the_others_with_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.self_test()
    turns = [engine.open(engine.tokenizer.encode(text), TurnOptions(max_tokens=6)) for text in ("one", "two", "three")]
    for turn in turns:
        list(turn.sequence.prefill())

    def fail(*_: object, **__: object) -> None:
        raise MemoryError("of this turn")

    monkeypatch.setattr(turns[1].sequence, "commit", fail)
    turns[2].ended = True
    good, bad, over = engine.step(turns)
    assert isinstance(good, StepReport)
    assert isinstance(bad, MemoryError)
    assert isinstance(over, RuntimeError)


def test_memory_is_told_in_bytes_of_live_tensors(engine: Engine) -> None:
    empty = engine.memory()
    assert empty.weights >= sum(p.stat().st_size for p in engine.folder.glob("*.safetensors")) * 0.9
    assert (empty.sequences, empty.kept, empty.steps) == (0, 0, 0)
    prompt = engine.tokenizer.encode("x" * 500)
    turn = engine.open(prompt, TurnOptions(max_tokens=2))
    finish(turn)
    running = engine.memory()
    assert running.sequences == turn.sequence.state.nbytes > 0
    other = engine.open(prompt, TurnOptions(max_tokens=2))
    both = engine.memory().sequences
    assert running.sequences < both < turn.sequence.state.nbytes + other.sequence.state.nbytes  # checkpoints are shared
    engine.close(turn)
    engine.close(other)
    assert engine.memory().kept == 2


def test_captured_steps_are_counted(tiny_folder: Path) -> None:
    engine, plain = Engine(tiny_folder), Engine(tiny_folder, EngineOptions(capture=False))
    for each in (engine, plain):
        each.self_test()
    assert (engine.model.captures.on, plain.model.captures.on) == (True, False)
    assert engine.memory().steps > plain.memory().steps > 0


def test_valid_tokens_end_where_the_tokenizer_does(engine: Engine) -> None:
    assert engine.valid_tokens == 260 < engine.model.config.vocab_size


def test_what_is_not_kept_is_freed_at_once(tiny_folder: Path) -> None:
    """Not when cycles are collected: gigabytes may hang on a sequence."""
    engine = Engine(tiny_folder, EngineOptions(keep=0))
    gc.disable()
    try:
        turn = engine.open(engine.tokenizer.encode("x" * 100), TurnOptions(drafter="mtp", max_tokens=4))
        finish(turn)
        sequence = weakref.ref(turn.sequence)
        engine.close(turn)
        del turn
        assert sequence() is None
    finally:
        gc.enable()


def test_a_closed_turn_holds_no_state_but_its_sequence(tiny_folder: Path) -> None:
    """Whoever still tells of it must not keep what it was compared with: each is a whole cache."""
    before = {id(state) for state in gc.get_objects() if type(state) is SequenceState}
    engine = Engine(tiny_folder, EngineOptions())
    options = TurnOptions(drafter="mtp", max_tokens=24, audit_every=1, shadow_every=4)
    turn = engine.open(engine.tokenizer.encode("x" * 100), options)
    finish(turn)
    engine.close(turn)
    gone = {id(state) for state in gc.get_objects() if type(state) is SequenceState} - before
    assert gone == {id(turn.sequence.state)}
