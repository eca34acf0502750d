"""Reads a model's sizes from a Hugging Face style folder.

Must not: read weights, or guess a size that the file does not state.
Invariant: a returned config is complete and supported; everything else is a ConfigError that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.families import FAMILIES, Family
from engine.fields import Fields
from engine.fp8 import read_block

FULL, LINEAR = "full_attention", "linear_attention"
ROPE_PLAIN = ("default", "mrope")
"""Multimodal RoPE gives text tokens the same position in all three sections, so for text it is the plain one."""


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """layers: indices of the layers that hold experts; chosen: experts per token; intermediate_size: of one expert;
    shared_size: of the shared expert, 0 = none; normalised: the weights of the chosen experts add up to 1."""

    layers: tuple[int, ...]
    experts: int
    chosen: int
    intermediate_size: int
    shared_size: int
    normalised: bool


@dataclass(frozen=True, slots=True)
class YarnConfig:
    """Context extension (Peng et al. 2309.00071). original: the context length that the model was trained with, in
    tokens; attention: factor on cos and sin, None = the paper's; fast, slow: rotations that bound the ramp."""

    factor: float
    original: int
    attention: float | None
    fast: float
    slow: float
    truncate: bool


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes in the field's names. layer_types: FULL or LINEAR per layer; rotary_dim: rotated dims of a head.

    intermediate_size: of dense layers, 0 if the file states none; the linear_* and conv sizes are 0 in a model without
    linear layers. gated, zero_centred, has_mtp: see `Family`. fp8_block: block of FP8 weights, None = not quantised.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layer_types: tuple[str, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    gated: bool
    zero_centred: bool
    linear_key_heads: int
    linear_value_heads: int
    linear_key_dim: int
    linear_value_dim: int
    conv_kernel: int
    rms_norm_eps: float
    rope_theta: float
    rotary_dim: int
    yarn: YarnConfig | None
    max_context: int
    tie_word_embeddings: bool
    has_mtp: bool
    mtp_layers: int
    moe: MoeConfig | None
    fp8_block: tuple[int, int] | None

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    @property
    def conv_channels(self) -> int:
        """Channels of the causal convolution: all q, k and v dims of a linear layer."""
        return 2 * self.linear_key_heads * self.linear_key_dim + self.linear_value_heads * self.linear_value_dim

    @classmethod
    def load(cls, folder: Path | str) -> ModelConfig:
        """Reads `config.json`; raises ConfigError."""
        path = Path(folder) / "config.json"
        try:
            outer = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path} is missing: point to a folder in Hugging Face layout") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(outer, dict):
            raise ConfigError(f"{path} must hold a JSON object")
        return cls.parse(outer)

    @classmethod
    def parse(cls, outer: Mapping[str, Any]) -> ModelConfig:
        """Reads the text part: fields of `text_config` first, then of the outer level (some exporters flatten)."""
        inner = outer.get("text_config")
        text = inner if isinstance(inner, Mapping) else {}
        fields = Fields(outer, text)
        model_type = str(fields.raw.get("model_type"))
        family = FAMILIES.get(model_type)
        if family is None:
            raise ConfigError(f"model_type: {model_type!r:.60} is not supported; supported: {', '.join(FAMILIES)}")
        for name, only in (("hidden_act", "silu"), ("attn_output_gate", family.gated), ("attention_bias", False)):
            fields.only(name, only)
        if not family.hybrid:
            fields.only("use_sliding_window", False)
        layer_types, moe = _layers(fields, family), _experts(fields, family)
        heads, hidden = fields.size("num_attention_heads"), fields.size("hidden_size")
        head_dim = fields.size("head_dim", family.head_dim or hidden // heads)
        theta, partial, yarn, context = _rope(fields, family)
        dense = moe is None or len(moe.layers) < len(layer_types)
        linear = LINEAR in layer_types
        quantisation = fields.nested("quantization_config")
        config = cls(
            model_type=model_type,
            vocab_size=fields.size("vocab_size"),
            hidden_size=hidden,
            intermediate_size=fields.size("intermediate_size")
            if dense
            else fields.size("intermediate_size", 0, least=0),
            layer_types=layer_types,
            num_heads=heads,
            num_kv_heads=fields.size("num_key_value_heads"),
            head_dim=head_dim,
            gated=family.gated,
            zero_centred=family.zero_centred,
            linear_key_heads=fields.size("linear_num_key_heads", 16) if linear else 0,
            linear_value_heads=fields.size("linear_num_value_heads", 32) if linear else 0,
            linear_key_dim=fields.size("linear_key_head_dim", 128) if linear else 0,
            linear_value_dim=fields.size("linear_value_head_dim", 128) if linear else 0,
            conv_kernel=fields.size("linear_conv_kernel_dim", 4, least=2) if linear else 0,
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6, most=0.1),
            rope_theta=theta,
            rotary_dim=_rotary_dim(head_dim, partial),
            yarn=yarn,
            max_context=context,
            # a wrapper ties its own head, so its word goes before that of the text part
            tie_word_embeddings=Fields(text, outer).flag("tie_word_embeddings", False),
            has_mtp=family.mtp,
            mtp_layers=_mtp_layers(fields) if family.mtp else 0,
            moe=moe,
            fp8_block=read_block(quantisation) if quantisation is not None else None,
        )
        for many, few, names in (
            (config.num_heads, config.num_kv_heads, "num_attention_heads / num_key_value_heads"),
            (config.linear_value_heads, config.linear_key_heads, "linear_num_value_heads / linear_num_key_heads"),
        ):
            if few and many % few:
                raise ConfigError(f"{names}: {many} is not a multiple of {few}")
        return config


def _layers(fields: Fields, family: Family) -> tuple[str, ...]:
    count = fields.size("num_hidden_layers")
    kinds = fields.raw.get("layer_types")
    if kinds is None:
        every = fields.size("full_attention_interval", 4) if family.hybrid else 1
        return tuple(LINEAR if (i + 1) % every else FULL for i in range(count))
    if not isinstance(kinds, list):
        raise ConfigError(f"layer_types: must be a list, found {kinds!r:.60}")
    if len(kinds) != count:
        raise ConfigError(f"layer_types: has {len(kinds)} entries, num_hidden_layers is {count}")
    known = (FULL, LINEAR) if family.hybrid else (FULL,)
    for index, kind in enumerate(kinds):
        if kind not in known:
            raise ConfigError(f"layer_types[{index}]: {kind!r:.60} is not supported here; {' or '.join(known)}")
    return tuple(kinds)


def _experts(fields: Fields, family: Family) -> MoeConfig | None:
    if not family.experts:
        return None
    # transformers writes the count of qwen3_moe under another name than the published files
    names = [name for name in ("num_experts", "num_local_experts") if name in fields.raw]
    count = fields.size(names[0] if names else "num_experts", least=0)
    if count != fields.size(names[-1] if names else "num_experts", least=0):
        raise ConfigError(f"num_experts: {count}, but num_local_experts is {fields.raw['num_local_experts']!r:.60}")
    if family.uniform:
        for name, only in (("norm_topk_prob", True), ("decoder_sparse_step", 1), ("mlp_only_layers", [])):
            fields.only(name, only)
    dense, step = fields.sizes("mlp_only_layers"), fields.size("decoder_sparse_step", 1)
    layers = [i for i in range(fields.size("num_hidden_layers")) if i not in dense and (i + 1) % step == 0]
    if not count or not layers:
        return None
    chosen = fields.size("num_experts_per_tok")
    if chosen > count:
        raise ConfigError(f"num_experts_per_tok: {chosen} is more than the {count} of num_experts")
    return MoeConfig(
        layers=tuple(layers),
        experts=count,
        chosen=chosen,
        intermediate_size=fields.size("moe_intermediate_size"),
        shared_size=fields.size("shared_expert_intermediate_size") if family.shared else 0,
        normalised=fields.flag("norm_topk_prob", family.normalised),
    )


def _rope(fields: Fields, family: Family) -> tuple[float, float, YarnConfig | None, int]:
    """(theta, share of a head that is rotated, YaRN, tokens of context); others are refused rather than run wrongly."""
    context = fields.size("max_position_embeddings")
    rope = fields.nested("rope_parameters") or fields.nested("rope_scaling") or Fields(path="rope_parameters.")
    either = Fields(fields.raw, rope.raw)
    theta = either.number("rope_theta", 10_000.0)
    partial = either.number("partial_rotary_factor", family.rotated, most=1.0)
    kind = rope.raw.get("rope_type", rope.raw.get("type", "default"))
    if kind in ROPE_PLAIN:
        return theta, partial, None, context
    if kind != "yarn":
        raise ConfigError(f"{rope.path}rope_type: {kind!r:.60} is not supported; 'default' or 'yarn'")
    if theta <= 1:
        raise ConfigError(f"rope_theta: must be above 1 with YaRN, found {theta:g}")
    for name in ("mscale", "mscale_all_dim"):
        rope.only(name, None)
    original = rope.size("original_max_position_embeddings", context)
    yarn = YarnConfig(
        factor=rope.number("factor"),
        original=original,
        attention=rope.number("attention_factor") if "attention_factor" in rope.raw else None,
        fast=rope.number("beta_fast", 32.0),
        slow=rope.number("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
    )
    # the usual recipe adds rope_scaling and leaves max_position_embeddings as it was
    return theta, partial, yarn, max(context, int(yarn.factor * original))


def _rotary_dim(head_dim: int, partial: float) -> int:
    rotated = int(head_dim * partial)
    if rotated < 2 or rotated % 2:
        raise ConfigError(f"partial_rotary_factor: {partial:g} of head_dim {head_dim} is {rotated} dims; must be even")
    return rotated


def _mtp_layers(fields: Fields) -> int:
    """Layers of the drafting head that the file announces: 0 or 1 (the tensors decide whether it is there)."""
    names = [name for name in ("mtp_num_hidden_layers", "num_nextn_predict_layers") if name in fields.raw]
    count = max((fields.size(name, least=0) for name in names), default=0)
    if count > 1:
        raise ConfigError(f"{names[0]}: {count} is not supported; 0 or 1")
    return count
