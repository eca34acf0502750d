"""Writes the embedded model, or another of its kind, as a GGUF file that llama.cpp runs, multi-token-prediction block
included.

    python -m examples.embedded_model.to_gguf --out model.gguf [--model DIR] [--type bf16|f16|f32] [--no-mtp]

Must not: load the engine or need another package: the names, shapes and transformations that llama.cpp's `qwen35`
architecture expects are written down here. Invariant: every tensor of the model is used exactly once, or nothing is
written.

What llama.cpp does otherwise than the Hugging Face layout: RMS norms other than the recurrent layers' own hold 1 + w;
the decay is stored as -exp(A_log); the convolution has no middle dimension; value heads of a recurrent layer that
share a key head lie `key heads` apart instead of side by side; the MTP block is one more layer, `nextn`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from examples.embedded_model.gguf_file import INT32, Typed, Value, write

EMBEDDED = Path(__file__).parents[2] / "engine" / "embedded"
ARCHITECTURE = "qwen35"
TYPES = {"bf16": (torch.bfloat16, 32), "f16": (torch.float16, 1), "f32": (torch.float32, 0)}
"""Of matrices, with the number that `general.file_type` has for it. Everything else is float32."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
MARKUP = re.compile(r"</?(?:think|tool_call|tool_response)>")
"""Tokens that are part of what a model says; as control tokens llama.cpp would leave them out of the text."""
MODEL = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
}
MTP = {
    "mtp.fc.weight": "nextn.eh_proj.weight",
    "mtp.pre_fc_norm_embedding.weight": "nextn.enorm.weight",
    "mtp.pre_fc_norm_hidden.weight": "nextn.hnorm.weight",
    "mtp.norm.weight": "nextn.shared_head_norm.weight",
}


class Unsupported(ValueError):
    """This model cannot be written; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="to_gguf", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--type", choices=tuple(TYPES), default="bf16")
    parser.add_argument("--no-mtp", action="store_true", help="leave the multi-token-prediction block out")
    arguments = parser.parse_args(argv)
    try:
        convert(arguments.model, arguments.out, arguments.type, mtp=not arguments.no_mtp)
    except (OSError, ValueError) as problem:
        print(f"to_gguf: {problem}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")
    return 0


def convert(folder: Path, target: Path, type_: str = "bf16", *, mtp: bool = True) -> None:
    """Raises Unsupported, or OSError where a file is missing."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    check(config)
    weights = load_file(folder / "model.safetensors")
    if not mtp:
        config = config | {"mtp_num_hidden_layers": 0}
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("mtp.")}
    tensors = renamed(weights, config, TYPES[type_][0])
    meta = metadata(config, TYPES[type_][1]) | vocabulary(folder, config)
    write(target, meta, tensors)


def check(config: Mapping[str, Any]) -> None:
    if config.get("model_type") not in ("qwen3_5_text", "qwen3_5"):
        raise Unsupported(f"model_type is {config.get('model_type')!r}; only qwen3_5 models are written")
    if "linear_attention" not in config["layer_types"]:
        raise Unsupported("layer_types has no linear_attention, and llama.cpp aborts on a qwen35 model without one")
    if config["linear_key_head_dim"] != config["linear_value_head_dim"]:
        raise Unsupported("linear_key_head_dim and linear_value_head_dim differ; llama.cpp has one size for both")
    if config.get("mtp_num_hidden_layers", 0) > 1:
        raise Unsupported("mtp_num_hidden_layers is more than 1; llama.cpp's qwen35 has one block at most")


def metadata(config: Mapping[str, Any], file_type: int) -> dict[str, Value]:
    """What the architecture needs to know."""
    mtp = config.get("mtp_num_hidden_layers", 0)
    rope = config["rope_parameters"]
    rotated = int(config["head_dim"] * rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.25)))
    recurrent = [layer == "linear_attention" for layer in config["layer_types"]]
    of_architecture: dict[str, Value] = {
        "block_count": config["num_hidden_layers"] + mtp,
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.recurrent_layers": [*recurrent, *[False] * mtp],
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": rotated,
        "rope.dimension_sections": Typed(INT32, sections(rotated // 2, rope.get("mrope_section"))),
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": config["linear_num_value_heads"],
        "ssm.inner_size": config["linear_num_value_heads"] * config["linear_value_head_dim"],
    }
    if mtp:
        of_architecture["nextn_predict_layers"] = mtp
    general: dict[str, Value] = {
        "general.architecture": ARCHITECTURE,
        "general.type": "model",
        "general.name": "specguard-embedded",
        "general.license": "apache-2.0",
        "general.file_type": file_type,
        "general.quantization_version": 2,
    }
    return general | {f"{ARCHITECTURE}.{key}": value for key, value in of_architecture.items()}


def sections(pairs: int, given: Sequence[int] | None) -> list[int]:
    """How the rotated pairs are shared among three kinds of positions, which are the same one for text."""
    if given is not None:
        return [*given, *[0] * (4 - len(given))]
    third = -(-pairs // 3)
    return [third, min(third, pairs - third), pairs - third - min(third, pairs - third), 0]


def vocabulary(folder: Path, config: Mapping[str, Any]) -> dict[str, Value]:
    """The tokenizer, which must cut as Qwen2's does, and the chat template."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = [f"[PAD{number}]" for number in range(config["vocab_size"])]
    types = [UNUSED] * config["vocab_size"]
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        said = MARKUP.fullmatch(added["content"]) or not added["special"]
        tokens[added["id"]], types[added["id"]] = added["content"], USER_DEFINED if said else CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    end = config["eos_token_id"]
    found: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": Typed(INT32, types),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": end[0] if isinstance(end, list) else end,
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
        "tokenizer.ggml.add_bos_token": False,
    }
    template = folder / "chat_template.jinja"
    if template.exists():
        found["tokenizer.chat_template"] = template.read_text(encoding="utf-8")
    return found


def renamed(weights: Mapping[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Every tensor under llama.cpp's name, in its form. Raises Unsupported for one that has none."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        target = new_name(name, config)
        if target in found:
            raise Unsupported(f"{name} is there twice")
        found[target] = transformed(name, tensor, config, dtype)
    return found


def new_name(name: str, config: Mapping[str, Any]) -> str:
    layers = config["num_hidden_layers"]
    if name in MODEL:
        return MODEL[name]
    if name == "lm_head.weight" and not config.get("tie_word_embeddings"):
        return "output.weight"
    if name in MTP:
        return f"blk.{layers}.{MTP[name]}"
    found = re.fullmatch(r"(model|mtp)\.layers\.(\d+)\.(.+)", name)
    if found is None or found[3] not in LAYER:
        raise Unsupported(f"{name} is no tensor of a qwen3_5 model")
    number = int(found[2]) + (layers if found[1] == "mtp" else 0)
    return f"blk.{number}.{LAYER[found[3]]}"


def transformed(name: str, tensor: Tensor, config: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    values = tensor.to(torch.float32)
    if ".linear_attn." in name:
        values = _tiled(name, values, config)
    if name.endswith(".A_log"):
        values = -values.exp()
    elif name.endswith(".conv1d.weight"):
        return values.squeeze(1)
    elif name.endswith("norm.weight") or ".pre_fc_norm_" in name:
        values = values if name.endswith(".linear_attn.norm.weight") else values + 1
    return values.to(dtype) if values.ndim == 2 else values


def _tiled(name: str, values: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Value heads in llama.cpp's order: head v of key head k at v * key heads + k."""
    keys, heads = config["linear_num_key_heads"], config["linear_num_value_heads"]
    if keys == heads:
        return values
    size, before = config["linear_value_head_dim"], 2 * keys * config["linear_key_head_dim"]

    def turned(part: Tensor, each: int) -> Tensor:
        grouped = part.reshape(keys, heads // keys, each, *part.shape[1:])
        return grouped.transpose(0, 1).reshape(part.shape)

    if name.endswith((".in_proj_qkv.weight", ".conv1d.weight")):
        return torch.cat([values[:before], turned(values[before:], size)])
    if name.endswith(".in_proj_z.weight"):
        return turned(values, size)
    if name.endswith((".in_proj_a.weight", ".in_proj_b.weight", ".A_log", ".dt_bias")):
        return turned(values, 1)
    if name.endswith(".out_proj.weight"):
        return turned(values.T, size).T
    return values


if __name__ == "__main__":
    raise SystemExit(main())
