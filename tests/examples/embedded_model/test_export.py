"""The exported folder: the files that engines look for, the right precisions, and a clean replacement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from engine.config import ModelConfig
from engine.template import ChatTemplate
from engine.tokenizer import Tokenizer as EngineTokenizer
from examples.embedded_model.episodes import TEMPLATE_FILE, render
from examples.embedded_model.export import export
from examples.embedded_model.model import Shape, TrainableModel

FILES = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> TrainableModel:
    torch.manual_seed(0)
    vocab = tokenizer.get_vocab_size()
    return TrainableModel(Shape(vocab_size=vocab, hidden_size=64, intermediate_size=32, num_hidden_layers=2))


@pytest.fixture
def folder(model: TrainableModel, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    export(model, tokenizer, tmp_path / "deep" / "export")
    return tmp_path / "deep" / "export"


def test_the_folder_holds_what_engines_look_for_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "chat_template.jinja").read_bytes() == TEMPLATE_FILE.read_bytes()


def test_weights_are_bfloat16_and_decays_stay_exact(model: TrainableModel, folder: Path) -> None:
    saved, state = load_file(folder / "model.safetensors"), model.state_dict()
    assert saved.keys() == state.keys()
    exact = [name for name in state if name.endswith(("A_log", "dt_bias"))]
    assert len(exact) == 2
    for name, tensor in state.items():
        if name in exact:
            assert torch.equal(saved[name], tensor)
            assert saved[name].dtype == torch.float32
        else:
            assert torch.equal(saved[name], tensor.bfloat16())
    assert "mtp.fc.weight" in saved
    assert "lm_head.weight" not in saved


def test_the_engine_reads_configuration_and_tokenizer(
    model: TrainableModel, tokenizer: Tokenizer, folder: Path
) -> None:
    config = ModelConfig.load(folder)
    assert list(config.layer_types) == model.shape.layer_types
    assert config.vocab_size == tokenizer.get_vocab_size()
    assert config.tie_word_embeddings
    mine = EngineTokenizer.load(folder)
    assert mine.eos_ids == {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    messages = [{"role": "user", "content": "Größe 12?"}]
    text = render(messages, generation_prompt=True)
    assert mine.encode(text) == tokenizer.encode(text).ids
    assert mine.decode(mine.encode(text)) == text
    assert ChatTemplate.load(folder).render(messages, None).endswith("Größe 12?<|im_end|>\n<|im_start|>assistant\n")


def test_end_of_turn_is_the_end_of_text(tokenizer: Tokenizer, folder: Path) -> None:
    eos, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (eos, pad)
    assert generation["eos_token_id"] == [eos, pad]
    assert config["model_type"] == "qwen3_5_text"


def test_a_second_export_replaces_the_first(model: TrainableModel, tokenizer: Tokenizer, folder: Path) -> None:
    name = "model.embed_tokens.weight"
    changed = TrainableModel(model.shape)
    export(changed, tokenizer, folder)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    saved = load_file(folder / "model.safetensors")[name]
    assert torch.equal(saved, changed.state_dict()[name].bfloat16())
    assert not torch.equal(saved, model.state_dict()[name].bfloat16())
