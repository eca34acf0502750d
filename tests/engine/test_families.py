"""Every architecture against transformers, and the engine's main invariant on each: a row's bits do not depend on its
block, on drafts beside it, or on the route that the state took."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import LINEAR, ModelConfig
from engine.engine import Engine
from engine.families import FAMILIES
from engine.model import Model
from engine.reports import AuditReport
from engine.sampler import SamplingParams
from engine.selftest import self_test
from engine.sequence import Sequence
from engine.turn import Turn, TurnOptions
from tests.engine.zoo import ARCHITECTURES, BASE, HYBRID, mtp_tensors, reference, variant, write

TOLERANCE = 1e-4
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"tied": True}),
    "qwen3-one-kv-head": ("qwen3", {"seed": 1, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-5}),
    "qwen3-yarn": ("qwen3", {"seed": 2, "rope_parameters": YARN}),
    "qwen3_moe": ("qwen3_moe", {"seed": 3}),
    "qwen3_moe-normalised": ("qwen3_moe", {"seed": 4, "norm_topk_prob": True, "num_key_value_heads": 4}),
    "qwen3_moe-some-dense": ("qwen3_moe", {"seed": 5, "decoder_sparse_step": 2, "mlp_only_layers": [3]}),
    "qwen3_next": ("qwen3_next", {"seed": 6}),
    "qwen3_next-not-normalised": ("qwen3_next", {"seed": 7, "norm_topk_prob": False, "mlp_only_layers": [1, 2]}),
    "qwen3_5": ("qwen3_5", {"seed": 8, "linear_num_value_heads": 2, "tied": True}),
    "qwen3_5-yarn": ("qwen3_5", {"seed": 9, "rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}),
    "qwen3_5-wrapped": ("qwen3_5", {"seed": 10, "wrapped": True}),
    "qwen3_5_moe": ("qwen3_5_moe", {"seed": 11, "num_experts_per_tok": 1}),
    "qwen3_5_moe-wrapped": ("qwen3_5_moe", {"seed": 12, "wrapped": True, "tied": True}),
}


def tokens(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: write(root / name, name) for name in ARCHITECTURES}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    """Prefill within a chunk and across its edge, then one token at a time."""
    architecture, changes = CASES[case]
    folder, ids = write(tmp_path / "model", architecture, **changes), tokens(160)
    model, expected = Model.load(folder), reference(folder, ids, wrapped="wrapped" in changes)
    assert expected.std() > 0.5, "the oracle's logits are too flat to tell anything"
    for prefilled in (1, 140):
        state = model.new_state()
        hidden = model.prefill(state, ids[:prefilled])
        assert (model.head(hidden) - expected[:prefilled]).abs().max() < TOLERANCE
        for position in range(prefilled, prefilled + 20):
            row = model.decode(state, [ids[position]])
            model.commit(state, 1)
            assert (row.logits[0] - expected[position]).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_have_the_same_bits_in_any_block(architecture: str, folders: dict[str, Path], dtype: torch.dtype) -> None:
    """Plain decoding against verify blocks with rejected rows behind them, across the edge of a KV tile."""
    model, rng = Model.load(folders[architecture], dtype=dtype), random.Random(1)
    ids, start = tokens(280), 235
    plain, blocks = model.new_state(), model.new_state()
    for state in (plain, blocks):
        model.prefill(state, ids[:start])
    expected = []
    for token in ids[start:]:
        expected.append(model.decode(plain, [token]).logits[0])
        model.commit(plain, 1)
    at = start
    while at < len(ids):
        accepted = min(rng.randint(1, 8), len(ids) - at)
        block = ids[at : at + accepted] + tokens(rng.randint(0, 8 - accepted), at)
        logits = model.decode(blocks, block).logits
        assert all(torch.equal(logits[i], expected[at - start + i]) for i in range(accepted))
        model.commit(blocks, accepted)
        at += accepted
    assert plain.fingerprint() == blocks.fingerprint()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_self_test_passes(architecture: str, folders: dict[str, Path]) -> None:
    assert self_test(Model.load(folders[architecture])).exactness == "bitwise"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rewound_state_decodes_the_same_bits(architecture: str, folders: dict[str, Path]) -> None:
    model, ids = Model.load(folders[architecture]), tokens(60)
    state = model.new_state()
    model.prefill(state, ids[:40])
    state.checkpoint()
    marks = [state.fingerprint()]
    for token in ids[40:]:
        model.decode(state, [token])
        model.commit(state, 1)
        marks.append(state.fingerprint())
    for position in (55, 41, 40):
        state.rewind(position)
        assert state.fingerprint() == marks[position - 40]
    model.decode(state, [*ids[40:44], 1, 2])
    model.commit(state, 4)
    assert state.fingerprint() == marks[4]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_whole_engine_says_the_same_with_every_drafter(
    architecture: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Turns of a conversation on a kept prefix, greedy and sampled, with drafts, rewinds and a trusted rebuild."""
    source, hybrid = folders[architecture], ModelConfig.load(folders[architecture]).has_mtp
    sparse = "num_experts" in ARCHITECTURES[architecture][2]
    folder = variant(source, tmp_path / "model", lambda t: t | mtp_tensors(sparse=sparse)) if hybrid else source
    engine = Engine(folder)
    assert engine.drafters == (("none", "ngram", "mtp", "mtp+ngram") if hybrid else ("none", "ngram"))
    engine.tokenizer.eos_ids = frozenset()  # a random model ends where it likes
    prompt = engine.tokenizer.encode("abcabcabcabcabcabcabc" * 6)
    texts = []
    for drafter in engine.drafters:
        engine.prefixes.clear()
        said: list[list[int]] = []
        for sampling in (SamplingParams(), SamplingParams(temperature=0.8, seed=3)):
            options = TurnOptions(sampling=sampling, drafter=drafter, max_tokens=16, audit_every=1)
            turn = engine.open([*prompt, *(token for one in said for token in one)], options)
            assert (turn.cached_tokens > 0) == bool(said)
            audits = finish(turn)
            assert all(audit.mismatch is None for audit in audits)
            first = list(turn.generated)
            for trusted in (False, True):
                turn.rewind(7, drafter, trusted=trusted)
                finish(turn)
                assert turn.generated == first
            said.append(first)
            engine.close(turn)
        texts.append(said)
    assert texts.count(texts[0]) == len(texts)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe"])
def test_attention_alone_reuses_every_shared_token(architecture: str, folders: dict[str, Path]) -> None:
    """Without linear layers a kept sequence can be cut anywhere, in the middle of a prefill too."""
    model = Model.load(folders[architecture])
    ids, other = tokens(200), tokens(20, 9)
    kept, cold = Sequence(model), Sequence(model)
    kept.begin(ids)
    list(kept.prefill())
    assert kept.begin([*ids[:150], *other]) == 149
    list(kept.prefill())
    cold.begin([*ids[:150], *other])
    list(cold.prefill())
    assert (kept.decode().logits - cold.decode().logits).abs().max() < TOLERANCE


def finish(turn: Turn) -> list[AuditReport]:
    list(turn.sequence.prefill())
    audits = []
    while not turn.ended:
        report = turn.step()
        if report.audit is not None:
            audits.append(report.audit)
    return audits


def test_text_exports_are_the_family_that_they_were_cut_from() -> None:
    for name in ("qwen3_5", "qwen3_5_moe"):
        assert FAMILIES[f"{name}_text"] is FAMILIES[name]
    assert set(FAMILIES) == {*ARCHITECTURES, "qwen3_5_text", "qwen3_5_moe_text"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_the_files_do_not_say(architecture: str, folders: dict[str, Path]) -> None:
    """The traits that no field states, from what transformers wrote."""
    config = ModelConfig.load(folders[architecture])
    hybrid = "layer_types" in ARCHITECTURES[architecture][2]
    assert (LINEAR in config.layer_types) == config.gated == config.zero_centred == config.has_mtp == hybrid
    assert (config.moe is not None) == ("num_experts" in ARCHITECTURES[architecture][2])
    assert config.rotary_dim == BASE["head_dim"] * (HYBRID["rope_parameters"]["partial_rotary_factor"] if hybrid else 1)
