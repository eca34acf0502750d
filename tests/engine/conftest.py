"""Small random models in Hugging Face layout, written by transformers, for the engine's tests."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

if not torch.cuda.is_available():
    # triton decides when it is imported whether it compiles or interprets, and other packages import it too
    os.environ.setdefault("TRITON_INTERPRET", "1")

VOCAB = 320
HIDDEN = 64
SPECIALS = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(folder: Path, *, tied: bool = True, mtp: bool = True, seed: int = 0) -> Path:
    """A random qwen3_5 with grouped heads and more value than key heads; the MTP tensors are appended by hand."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    torch.manual_seed(seed)
    config = Qwen3_5TextConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        layer_types=["linear_attention", "full_attention"] * 2,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        eos_token_id=257,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )
    model = Qwen3_5ForCausalLM(config).float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            # default norms are all equal and default weights tiny: a mistake in either would go unseen
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.08))
            if name.endswith("A_log"):
                p.clamp_(-1.0, 1.5)
    model.save_pretrained(folder)
    if mtp:
        path = folder / "model.safetensors"
        save_file(load_file(path) | mtp_tensors(), path, metadata={"format": "pt"})
        _edit(folder / "config.json", mtp_num_hidden_layers=1)
    write_tokenizer(folder)
    return folder


def mtp_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    layer = "mtp.layers.0."
    return {
        "mtp.fc.weight": draw(HIDDEN, 2 * HIDDEN),
        "mtp.pre_fc_norm_embedding.weight": draw(HIDDEN),
        "mtp.pre_fc_norm_hidden.weight": draw(HIDDEN),
        "mtp.norm.weight": draw(HIDDEN),
        f"{layer}input_layernorm.weight": draw(HIDDEN),
        f"{layer}post_attention_layernorm.weight": draw(HIDDEN),
        f"{layer}self_attn.q_proj.weight": draw(256, HIDDEN),
        f"{layer}self_attn.k_proj.weight": draw(64, HIDDEN),
        f"{layer}self_attn.v_proj.weight": draw(64, HIDDEN),
        f"{layer}self_attn.o_proj.weight": draw(HIDDEN, 128),
        f"{layer}self_attn.q_norm.weight": draw(32),
        f"{layer}self_attn.k_norm.weight": draw(32),
        f"{layer}mlp.gate_proj.weight": draw(96, HIDDEN),
        f"{layer}mlp.up_proj.weight": draw(96, HIDDEN),
        f"{layer}mlp.down_proj.weight": draw(HIDDEN, 96),
    }


def write_tokenizer(folder: Path) -> None:
    """One token per byte (ids 0..255), then the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "generation_config.json").write_text('{"eos_token_id": [257]}', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}', encoding="utf-8")


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def untied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("untied"), tied=False, mtp=False, seed=3)
