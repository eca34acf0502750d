"""The engine as a whole: turns on kept prefixes, honest options, a fingerprint that tells models apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.engine import Engine, EngineOptions, fingerprint
from engine.errors import ConfigError, ContextOverflow, EngineError
from engine.faults import Fault
from engine.sampler import SamplingParams
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

    first = engine.open(ask("hello"), TurnOptions(max_tokens=5))
    assert first.cached_tokens == 0
    finish(first)
    engine.close(first)
    again = engine.open(ask("hello", "what", "more"), TurnOptions(max_tokens=5))
    assert again.cached_tokens >= len(ask("hello")) - 1
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


def test_valid_tokens_end_where_the_tokenizer_does(engine: Engine) -> None:
    assert engine.valid_tokens == 260 < engine.model.config.vocab_size
