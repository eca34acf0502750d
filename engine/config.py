"""Reads a model's sizes from a Hugging Face style folder.

Must not: read weights, or guess a size that the file does not state.
Invariant: a returned config is complete and supported; everything else is a ConfigError that names the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError

SUPPORTED = ("qwen3_5", "qwen3_5_text")
FULL, LINEAR = "full_attention", "linear_attention"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes in the field's names. layer_types: FULL or LINEAR per layer; rotary_dim: rotated dims of a head."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layer_types: tuple[str, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    linear_key_heads: int
    linear_value_heads: int
    linear_key_dim: int
    linear_value_dim: int
    conv_kernel: int
    rms_norm_eps: float
    rope_theta: float
    rotary_dim: int
    max_context: int
    tie_word_embeddings: bool
    mtp_layers: int

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
        fields = _Fields({**outer, **inner} if isinstance(inner, Mapping) else outer)
        model_type = str(fields.raw.get("model_type"))
        if model_type not in SUPPORTED:
            raise ConfigError(f"model_type: {model_type!r} is not supported; supported: {', '.join(SUPPORTED)}")
        if fields.raw.get("quantization_config"):
            raise ConfigError("quantization_config: quantised weights are not supported yet; use bf16 or fp32 weights")
        for name, only in (("hidden_act", "silu"), ("attn_output_gate", True), ("attention_bias", False)):
            if fields.raw.get(name, only) != only:
                raise ConfigError(f"{name}: only {only!r} is supported, found {fields.raw[name]!r}")
        head_dim = fields.size("head_dim", 256)
        theta, partial = fields.rope()
        config = cls(
            model_type=model_type,
            vocab_size=fields.size("vocab_size"),
            hidden_size=fields.size("hidden_size"),
            intermediate_size=fields.size("intermediate_size"),
            layer_types=fields.layers(),
            num_heads=fields.size("num_attention_heads"),
            num_kv_heads=fields.size("num_key_value_heads"),
            head_dim=head_dim,
            linear_key_heads=fields.size("linear_num_key_heads", 16),
            linear_value_heads=fields.size("linear_num_value_heads", 32),
            linear_key_dim=fields.size("linear_key_head_dim", 128),
            linear_value_dim=fields.size("linear_value_head_dim", 128),
            conv_kernel=fields.size("linear_conv_kernel_dim", 4),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6, most=0.1),
            rope_theta=theta,
            rotary_dim=_rotary_dim(head_dim, partial),
            max_context=fields.size("max_position_embeddings"),
            tie_word_embeddings=fields.flag("tie_word_embeddings", False),
            mtp_layers=fields.size("mtp_num_hidden_layers", 0, least=0),
        )
        for heads, of, names in (
            (config.num_heads, config.num_kv_heads, "num_attention_heads / num_key_value_heads"),
            (config.linear_value_heads, config.linear_key_heads, "linear_num_value_heads / linear_num_key_heads"),
        ):
            if heads % of:
                raise ConfigError(f"{names}: {heads} is not a multiple of {of}")
        if config.mtp_layers > 1:
            raise ConfigError(f"mtp_num_hidden_layers: {config.mtp_layers} is not supported; 0 or 1")
        return config


class _Fields:
    """Typed access to the merged fields with errors that name them."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw

    def size(self, name: str, default: int | None = None, least: int = 1) -> int:
        value = self.raw.get(name, default)
        if value is None:
            raise ConfigError(f"{name}: is missing from config.json")
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name}: must be an integer of at least {least}, found {value!r}")
        return value

    def number(self, name: str, default: float, most: float = math.inf) -> float:
        """A finite number above 0 and not above `most`."""
        return _number(name, self.raw.get(name, default), most)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: must be true or false, found {value!r}")
        return value

    def layers(self) -> tuple[str, ...]:
        count = self.size("num_hidden_layers")
        kinds = self.raw.get("layer_types")
        if kinds is None:
            every = self.size("full_attention_interval", 4)
            return tuple(LINEAR if (i + 1) % every else FULL for i in range(count))
        if not isinstance(kinds, list):
            raise ConfigError(f"layer_types: must be a list, found {kinds!r:.60}")
        if len(kinds) != count:
            raise ConfigError(f"layer_types: has {len(kinds)} entries, num_hidden_layers is {count}")
        for index, kind in enumerate(kinds):
            if kind not in (FULL, LINEAR):
                raise ConfigError(f"layer_types[{index}]: {kind!r} is unknown; {FULL} or {LINEAR}")
        return tuple(kinds)

    def rope(self) -> tuple[float, float]:
        """(theta, share of a head that is rotated); scaled variants are refused rather than run wrongly."""
        rope = self.raw.get("rope_parameters") or self.raw.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise ConfigError(f"rope_parameters: must be an object, found {rope!r:.60}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "mrope"):
            raise ConfigError(f"rope_parameters.rope_type: {kind!r} is not supported yet; only 'default'")
        theta = rope.get("rope_theta", self.raw.get("rope_theta", 10_000.0))
        partial = rope.get("partial_rotary_factor", self.raw.get("partial_rotary_factor", 0.25))
        return _number("rope_theta", theta), _number("partial_rotary_factor", partial, most=1.0)


def _number(name: str, value: object, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= min(most, 1e30):
        upper = f" and at most {most:g}" if most < math.inf else ""
        raise ConfigError(f"{name}: must be a number above 0{upper}, found {value!r:.60}")
    return float(value)


def _rotary_dim(head_dim: int, partial: float) -> int:
    rotated = int(head_dim * partial)
    if rotated < 2 or rotated % 2:
        raise ConfigError(f"partial_rotary_factor: {partial:g} of head_dim {head_dim} is {rotated} dims; must be even")
    return rotated
