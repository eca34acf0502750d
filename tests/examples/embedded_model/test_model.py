"""The trainable model against a plain recurrence, the engine and transformers; what it must not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from engine.model import Model
from examples.embedded_model.export import export
from examples.embedded_model.model import CHUNK, Shape, TrainableModel, gated_delta_rule

TOLERANCE = 1e-4
LENGTH = 2 * CHUNK + 22


def tiny(vocab_size: int) -> TrainableModel:
    """Random weights, all of them away from their initial values, that bfloat16 holds exactly."""
    torch.manual_seed(3)
    model = TrainableModel(
        Shape(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            partial_rotary_factor=0.5,
        )
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.08))
            if name.endswith("embed_tokens.weight"):
                p.mul_(0.4)
            if name.endswith("A_log"):
                p.clamp_(-1.0, 1.5)
            if not name.endswith(("A_log", "dt_bias")):
                p.copy_(p.bfloat16())
    return model.eval()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> TrainableModel:
    return tiny(tokenizer.get_vocab_size())


@pytest.fixture(scope="module")
def folder(model: TrainableModel, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def tokens(model: TrainableModel) -> Tensor:
    return torch.randint(0, model.shape.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def hidden(model: TrainableModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        states: Tensor = model(tokens)
    return states


def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> Tensor:
    """The gated delta rule, one token after the other."""
    state = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=k.dtype)
    outs = []
    for t in range(k.shape[2]):
        state = state * g[:, :, t, None, None].exp()
        read = (k[:, :, t, :, None] * state).sum(-2)
        update = beta[:, :, t, None] * (v[:, :, t] - read)
        state = state + k[:, :, t, :, None] * update[:, :, None, :]
        outs.append((q[:, :, t, :, None] * state).sum(-2))
    return torch.stack(outs, 2)


def ingredients(length: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(2, 3, length, *shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k = (torch.nn.functional.normalize(draw(8), dim=-1) for _ in range(2))
    return q, k, draw(5), torch.sigmoid(draw()), -torch.nn.functional.softplus(draw())


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_chunks_give_what_the_recurrence_gives(length: int, dtype: torch.dtype, tolerance: float) -> None:
    parts = ingredients(length, dtype)
    out = gated_delta_rule(*parts)
    assert out.dtype == dtype
    assert out.std() > 0.05
    torch.testing.assert_close(out, recurrence(*parts), atol=tolerance, rtol=tolerance)


def test_gradients_of_the_chunks_are_those_of_the_recurrence() -> None:
    gradients = []
    for rule in (gated_delta_rule, recurrence):
        parts = [part.requires_grad_() for part in ingredients(CHUNK + 3, torch.float64)]
        gradients.append(torch.autograd.grad(rule(*parts).square().sum(), parts))
    for chunked, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(chunked, plain, atol=1e-8, rtol=1e-8)


def test_strong_decay_stays_finite() -> None:
    q, k, v, beta, g = ingredients(CHUNK * 2, torch.float32)
    assert gated_delta_rule(q, k, v, beta, g - 40.0).isfinite().all()


def test_the_engine_computes_the_same_logits(
    model: TrainableModel, folder: Path, tokens: Tensor, hidden: Tensor
) -> None:
    expected = model.logits(hidden)[0].detach()
    assert expected.std() > 0.5, "logits too flat to tell anything"
    engine = Model.load(folder)
    state, ids = engine.new_state(), tokens[0].tolist()
    prefilled = engine.prefill(state, ids[:-6])
    assert (engine.head(prefilled) - expected[:-6]).abs().max() < TOLERANCE
    for position in range(LENGTH - 6, LENGTH):
        row = engine.decode(state, [ids[position]])
        engine.commit(state, 1)
        assert (row.logits[0] - expected[position]).abs().max() < TOLERANCE


def test_transformers_computes_the_same_logits(
    model: TrainableModel, folder: Path, tokens: Tensor, hidden: Tensor
) -> None:
    from transformers import AutoModelForCausalLM

    oracle: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    oracle.eval()
    assert type(oracle).__name__ == "Qwen3_5ForCausalLM"
    with torch.no_grad():
        logits = oracle(tokens).logits
    assert (logits - model.logits(hidden)).abs().max() < TOLERANCE


def test_the_engine_drafts_the_same(model: TrainableModel, folder: Path, tokens: Tensor, hidden: Tensor) -> None:
    following = tokens[:, 1:]
    with torch.no_grad():
        embedded = model.model.embed_tokens(following)
        states = model.mtp(embedded, hidden[:, :-1], model.rope(LENGTH - 1, tokens.device))
        expected = model.logits(states)
    engine = Model.load(folder)
    cache = engine.new_state().mtp
    assert engine.mtp is not None
    assert cache is not None
    for start, end in ((0, 40), (40, 41), (41, LENGTH - 1)):
        state, logits = engine.mtp.fill(cache, start, following[0, start:end].tolist(), hidden[0, start:end])
        assert (state[0] - states[0, end - 1]).abs().max() < TOLERANCE
        assert (logits[0] - expected[0, end - 1]).abs().max() < TOLERANCE


@pytest.mark.parametrize("position", [1, CHUNK, LENGTH - 1])
def test_a_later_token_never_changes_earlier_states(
    model: TrainableModel, tokens: Tensor, hidden: Tensor, position: int
) -> None:
    changed = tokens.clone()
    changed[0, position] = (tokens[0, position] + 1) % model.shape.vocab_size
    with torch.no_grad():
        after = model(changed)
    torch.testing.assert_close(after[:, :position], hidden[:, :position], atol=1e-5, rtol=1e-5)
    assert (after[:, position] - hidden[:, position]).abs().max() > 0.1


def test_rows_of_a_batch_do_not_mix(model: TrainableModel, tokens: Tensor, hidden: Tensor) -> None:
    with torch.no_grad():
        both = model(torch.cat((tokens.flip(1), tokens)))
    torch.testing.assert_close(both[1:], hidden, atol=1e-5, rtol=1e-5)


def test_every_weight_gets_a_gradient(tokenizer: Tokenizer) -> None:
    model = tiny(tokenizer.get_vocab_size()).train()
    tokens = torch.randint(0, model.shape.vocab_size, (2, 30), generator=torch.Generator().manual_seed(2))
    states = model(tokens)
    drafted = model.mtp(model.model.embed_tokens(tokens), states, model.rope(30, tokens.device))
    torch.autograd.backward(model.logits(states + drafted).square().mean())
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_layers_alternate_and_config_says_so() -> None:
    shape = Shape(num_hidden_layers=4)
    assert shape.layer_types == ["linear_attention", "full_attention"] * 2
    config = shape.config()
    assert config["layer_types"] == shape.layer_types
    assert config["rope_parameters"]["partial_rotary_factor"] == shape.partial_rotary_factor
    assert {"hidden_size", "head_dim", "linear_conv_kernel_dim", "vocab_size"} <= config.keys()
