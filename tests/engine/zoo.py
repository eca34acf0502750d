"""Tiny random models of every supported architecture, written by transformers, and hub-style variants of their files.

Must not: use the engine; transformers is the oracle.
Invariant: no parameter has its initial value, so that a wrong norm, decay or gate shows in the logits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.engine.conftest import write_tokenizer

VOCAB, HIDDEN, HEAD = 320, 64, 24
"""HEAD differs from HIDDEN / heads, as in the published models."""

BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
    "max_position_embeddings": 1024,
    "eos_token_id": 257,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
HYBRID: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}
DENSE: dict[str, Any] = {"intermediate_size": 96}
MOE: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
SHARED: dict[str, Any] = {"shared_expert_intermediate_size": 40}
VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": HIDDEN,
    "num_position_embeddings": 16,
    "patch_size": 4,
}
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**BASE, **DENSE}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**BASE, **DENSE, **MOE}),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", {**BASE, **DENSE, **HYBRID, **MOE, **SHARED}),
    "qwen3_5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", {**BASE, **DENSE, **HYBRID}),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", "Qwen3_5MoeForCausalLM", {**BASE, **HYBRID, **MOE, **SHARED}),
}
WRAPPERS = {
    "qwen3_5": ("Qwen3_5Config", "Qwen3_5ForConditionalGeneration"),
    "qwen3_5_moe": ("Qwen3_5MoeConfig", "Qwen3_5MoeForConditionalGeneration"),
}


def write(
    folder: Path, architecture: str, *, seed: int = 0, tied: bool = False, wrapped: bool = False, **changes: Any
) -> Path:
    """Writes a model with `save_pretrained`. wrapped: inside its multimodal class; changes: other config fields."""
    import transformers

    config_name, model_name, sizes = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    config = getattr(transformers, config_name)(**{**sizes, "tie_word_embeddings": tied, **changes})
    if wrapped:
        config_name, model_name = WRAPPERS[architecture]
        outer = getattr(transformers, config_name)
        config = outer(text_config=config.to_dict(), vision_config=VISION, tie_word_embeddings=tied)
    model = getattr(transformers, model_name)(config).float()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.3 if p.dim() == 1 else 0.08))
            if name.endswith("A_log"):
                p.clamp_(-1.0, 1.5)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def reference(folder: Path, ids: list[int], *, wrapped: bool = False) -> Tensor:
    """The oracle's fp32 logits [len(ids), vocab]."""
    import transformers

    kind = transformers.AutoModelForImageTextToText if wrapped else transformers.AutoModelForCausalLM
    oracle: Any = kind.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: Tensor = oracle(input_ids=torch.tensor([ids])).logits[0]
    return logits


def variant(
    source: Path, target: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], **config: Any
) -> Path:
    """A copy of a folder with changed tensors and configuration fields (None removes one)."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    edit(target, **config)
    return target


def edit(folder: Path, **changes: Any) -> None:
    """Changes fields of config.json; None removes one."""
    path = folder / "config.json"
    fields = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}), encoding="utf-8")


def fuse_experts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Per-expert matrices as the 3-D tensors of the published Qwen3.5 files."""
    fused: dict[str, Tensor] = {}
    groups: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        prefix, found, rest = name.partition(".experts.")
        if not found or "." not in rest:
            fused[name] = tensor
            continue
        number, kind, _ = rest.split(".")
        groups.setdefault(f"{prefix}.experts.", {}).setdefault(int(number), {})[kind] = tensor
    for prefix, experts in groups.items():
        each = [experts[i] for i in range(len(experts))]
        fused[f"{prefix}gate_up_proj"] = torch.stack([torch.cat((e["gate_proj"], e["up_proj"])) for e in each])
        fused[f"{prefix}down_proj"] = torch.stack([e["down_proj"] for e in each])
    return fused


def wrap_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text model's tensors under the names of its multimodal wrapper, with some of a vision tower."""
    named = {n.replace("model.", "model.language_model.", 1): t for n, t in tensors.items() if n != "lm_head.weight"}
    head = {"lm_head.weight": tensors["lm_head.weight"]} if "lm_head.weight" in tensors else {}
    return {**named, **head, "model.visual.blocks.0.norm1.weight": torch.ones(3)}


def split_grouped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Qwen3-Next's grouped projections as the separate ones of Qwen3.5, row by row."""
    keys, values, dk, dv = 2, 4, 16, 8
    per = values // keys
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base = name.partition("in_proj_")[0]
        if name.endswith("in_proj_qkvz.weight"):
            rows: dict[str, list[Tensor]] = {"q": [], "k": [], "v": [], "z": []}
            for head in tensor.view(keys, -1, HIDDEN):
                rows["q"].append(head[:dk])
                rows["k"].append(head[dk : 2 * dk])
                rows["v"].append(head[2 * dk : 2 * dk + per * dv])
                rows["z"].append(head[2 * dk + per * dv :])
            out[f"{base}in_proj_qkv.weight"] = torch.cat([*rows["q"], *rows["k"], *rows["v"]])
            out[f"{base}in_proj_z.weight"] = torch.cat(rows["z"])
        elif name.endswith("in_proj_ba.weight"):
            heads = tensor.view(keys, 2, per, HIDDEN)
            out[f"{base}in_proj_b.weight"] = heads[:, 0].reshape(-1, HIDDEN)
            out[f"{base}in_proj_a.weight"] = heads[:, 1].reshape(-1, HIDDEN)
        else:
            out[name] = tensor
    return out


def mtp_tensors(*, sparse: bool, seed: int = 5) -> dict[str, Tensor]:
    """A random drafting head that fits HYBRID models; sparse: its block holds experts, one matrix each."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    layer, wide, narrow = "mtp.layers.0.", BASE["num_attention_heads"] * HEAD, BASE["num_key_value_heads"] * HEAD
    tensors = {
        "mtp.fc.weight": draw(HIDDEN, 2 * HIDDEN),
        "mtp.pre_fc_norm_embedding.weight": draw(HIDDEN),
        "mtp.pre_fc_norm_hidden.weight": draw(HIDDEN),
        "mtp.norm.weight": draw(HIDDEN),
        f"{layer}input_layernorm.weight": draw(HIDDEN),
        f"{layer}post_attention_layernorm.weight": draw(HIDDEN),
        f"{layer}self_attn.q_proj.weight": draw(2 * wide, HIDDEN),
        f"{layer}self_attn.k_proj.weight": draw(narrow, HIDDEN),
        f"{layer}self_attn.v_proj.weight": draw(narrow, HIDDEN),
        f"{layer}self_attn.o_proj.weight": draw(HIDDEN, wide),
        f"{layer}self_attn.q_norm.weight": draw(HEAD),
        f"{layer}self_attn.k_norm.weight": draw(HEAD),
    }

    def block(prefix: str, size: int) -> None:
        for name in ("gate_proj", "up_proj"):
            tensors[f"{prefix}{name}.weight"] = draw(size, HIDDEN)
        tensors[f"{prefix}down_proj.weight"] = draw(HIDDEN, size)

    if not sparse:
        block(f"{layer}mlp.", DENSE["intermediate_size"])
        return tensors
    for expert in range(MOE["num_experts"]):
        block(f"{layer}mlp.experts.{expert}.", MOE["moe_intermediate_size"])
    block(f"{layer}mlp.shared_expert.", SHARED["shared_expert_intermediate_size"])
    tensors[f"{layer}mlp.gate.weight"] = draw(MOE["num_experts"], HIDDEN)
    tensors[f"{layer}mlp.shared_expert_gate.weight"] = draw(1, HIDDEN)
    return tensors
