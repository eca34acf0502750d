"""The model against transformers, and the property everything rests on: a row's bits do not depend on its block."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import ContextOverflow
from engine.faults import Fault
from engine.model import Block, Model

TOLERANCE = 1e-4


def tokens(count: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(count)]


def reference(folder: Path, ids: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    oracle: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: torch.Tensor = oracle(torch.tensor([ids])).logits[0]
    return logits


@pytest.fixture(scope="module", params=["tiny_folder", "untied_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("prefilled", [1, 63, 128, 200, 290])
def test_logits_are_those_of_transformers(folder: Path, prefilled: int) -> None:
    """Prefill across 64, 128 and 256, then one token at a time across the 256 tile boundary."""
    model, ids = Model.load(folder), tokens(300)
    expected = reference(folder, ids)
    assert expected.std() > 0.5, "the oracle's logits are too flat to tell anything"
    state = model.new_state()
    hidden = model.prefill(state, ids[:prefilled])
    assert (model.head(hidden) - expected[:prefilled]).abs().max() < TOLERANCE
    for position in range(prefilled, min(prefilled + 70, 300)):
        row = model.decode(state, [ids[position]])
        model.commit(state, 1)
        assert (row.logits[0] - expected[position]).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_hundred_rows_have_the_same_bits_in_any_block(tiny_folder: Path, dtype: torch.dtype) -> None:
    model, ids, rng = Model.load(tiny_folder, dtype=dtype), tokens(360), random.Random(1)
    plain, blocks = model.new_state(), model.new_state()
    for state in (plain, blocks):
        model.prefill(state, ids[:160])
    expected = []
    for token in ids[160:]:
        expected.append(model.decode(plain, [token]).logits[0])
        model.commit(plain, 1)
    at, equal = 160, 0
    while at < 360:
        accepted = min(rng.randint(1, 8), 360 - at)
        block = ids[at : at + accepted] + tokens(rng.randint(0, 8 - accepted), at)
        logits = model.decode(blocks, block).logits
        equal += sum(torch.equal(logits[i], expected[at - 160 + i]) for i in range(accepted))
        model.commit(blocks, accepted)
        at += accepted
    assert equal == 200
    assert plain.fingerprint() == blocks.fingerprint()


def test_prefill_in_two_calls_is_one_prefill_if_split_at_an_edge(tiny_folder: Path) -> None:
    model, ids = Model.load(tiny_folder), tokens(300)
    whole, parts = model.new_state(), model.new_state()
    hidden = model.prefill(whole, ids)
    pieces = torch.cat([model.prefill(parts, ids[:128]), model.prefill(parts, ids[128:])])
    assert torch.equal(hidden, pieces)
    assert whole.fingerprint() == parts.fingerprint()


def test_a_prefill_that_starts_inside_a_chunk_is_still_right(tiny_folder: Path) -> None:
    model, ids = Model.load(tiny_folder), tokens(300)
    expected = reference(tiny_folder, ids)
    state = model.new_state()
    pieces = [model.prefill(state, ids[a:b]) for a, b in ((0, 1), (1, 70), (70, 71), (71, 260), (260, 300))]
    assert (model.head(torch.cat(pieces)) - expected).abs().max() < TOLERANCE


def test_the_planted_fault_needs_context_and_a_block(tiny_folder: Path) -> None:
    model, ids, fault = Model.load(tiny_folder), tokens(40), Fault.VERIFY_IGNORES_CACHE
    state = model.new_state()
    assert torch.equal(model.decode(state, ids[:4]).logits, model.decode(state, ids[:4], fault).logits)
    model.prefill(state, ids)
    assert torch.equal(model.decode(state, ids[:1]).logits, model.decode(state, ids[:1], fault).logits)
    sound, faulty = model.decode(state, ids[:4]).logits, model.decode(state, ids[:4], fault).logits
    assert all(not torch.equal(a, b) for a, b in zip(sound, faulty, strict=True))


def test_nan_in_a_rejected_row_does_not_reach_later_ones(tiny_folder: Path) -> None:
    model, ids = Model.load(tiny_folder), tokens(20)
    state = model.new_state()
    model.prefill(state, ids)
    expected = model.decode(state, ids[:1]).logits
    with torch.inference_mode():
        for cache in state.kv:
            cache.keys[:, :, 22:24] = cache.values[:, :, 22:24] = torch.nan
    assert torch.equal(model.decode(state, ids[:1]).logits, expected)


def test_limits_are_enforced(tiny_folder: Path) -> None:
    model = Model.load(tiny_folder)
    state = model.new_state()
    with pytest.raises(ContextOverflow):
        model.prefill(state, tokens(1025))
    assert state.length == 0
    for wrong in ([], tokens(9)):
        with pytest.raises(ValueError, match="1 to 8"):
            model.decode(state, wrong)
    model.prefill(state, tokens(1020))
    with pytest.raises(ContextOverflow):
        model.decode(state, tokens(5))
    assert model.decode(state, tokens(4)).logits.shape[0] == 4
    state = model.new_state()
    with pytest.raises(ValueError, match="prefill_rows"):
        Model.load(tiny_folder, prefill_rows=100)
    with pytest.raises(ValueError, match="cannot commit"):
        model.commit(state, 1)


def test_a_model_without_mtp_tensors_has_no_head(untied_folder: Path, tiny_folder: Path) -> None:
    assert Model.load(untied_folder).mtp is None
    assert Model.load(tiny_folder).mtp is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sequences_in_one_forward_have_the_bits_they_have_alone(tiny_folder: Path, dtype: torch.dtype) -> None:
    model = Model.load(tiny_folder, dtype=dtype)
    rng = random.Random(7)
    states = []
    for length in (0, 3, 64, 200, 255, 256, 300):
        state = model.new_state()
        if length:
            model.prefill(state, tokens(length))
        states.append(state)
    for _ in range(6):
        count = rng.randint(2, 7)
        blocks = [Block(state, tokens(rng.randint(1, 8))) for state in rng.sample(states, count)]
        alone = [model.decode(block.state.clone(), block.tokens) for block in blocks]
        for block, one, other in zip(blocks, alone, model.decode_blocks(blocks), strict=True):
            assert torch.equal(one.logits, other.logits)
            assert torch.equal(one.hidden, other.hidden)
            kept, reference = rng.randint(1, len(block.tokens)), block.state.clone()
            model.decode(reference, block.tokens)
            model.commit(reference, kept)
            model.commit(block.state, kept)
            assert block.state.fingerprint() == reference.fingerprint()


def test_a_block_that_cannot_be_decoded_costs_the_others_nothing(tiny_folder: Path) -> None:
    model = Model.load(tiny_folder)
    good = model.new_state()
    mark = good.fingerprint()
    with pytest.raises(ValueError, match="1 to 8"):
        model.decode_blocks([Block(good, tokens(2)), Block(model.new_state(), [])])
    assert (good.fingerprint(), good.provisional) == (mark, None)
