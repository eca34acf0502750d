"""Writes a trained model as a Hugging Face folder: config, bf16 safetensors, tokenizer, chat template.

Must not: rename tensors (they carry the right names already). Invariant: the written files are complete or absent.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from examples.embedded_model.episodes import TEMPLATE_FILE
from examples.embedded_model.model import TrainableModel


def export(model: TrainableModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Replaces `folder`'s files by the present weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    eos, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    tensors = {name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in model.state_dict().items()}
    # the decay parameters are tiny and sensitive: they stay in fp32, as the published models keep them
    for name, p in model.state_dict().items():
        if name.endswith(("A_log", "dt_bias")):
            tensors[name] = p.detach().to("cpu", torch.float32).contiguous()
    part = folder / "model.safetensors.part"
    save_file(tensors, str(part), metadata={"format": "pt"})
    part.replace(folder / "model.safetensors")
    config = model.shape.config() | {"eos_token_id": eos, "pad_token_id": pad}
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": [eos, pad], "pad_token_id": pad, "do_sample": False})
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": model.shape.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
        },
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copyfile(TEMPLATE_FILE, folder / "chat_template.jinja")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
