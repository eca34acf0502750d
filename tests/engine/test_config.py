"""config.json: nested, flattened or hybrid files are read alike, and what is not supported is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import FULL, LINEAR, ModelConfig
from engine.errors import ConfigError

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}
FLAT = {"model_type": "qwen3_5_text", **SIZES}


def parse(**changes: Any) -> ModelConfig:
    return ModelConfig.parse({k: v for k, v in {**FLAT, **changes}.items() if v is not None})


def test_a_multimodal_wrapper_is_read_like_a_text_model() -> None:
    nested = {"model_type": "qwen3_5", "text_config": FLAT, "vision_config": {"hidden_size": 9}}
    assert ModelConfig.parse(nested) == parse()


def test_fields_that_an_exporter_left_on_the_outer_level_are_found() -> None:
    inner = {k: v for k, v in FLAT.items() if k != "head_dim"}
    outer = {"model_type": "qwen3_5", "head_dim": 16, "tie_word_embeddings": True, "text_config": inner}
    config = ModelConfig.parse(outer)
    assert (config.head_dim, config.tie_word_embeddings) == (16, True)


def test_layers_follow_the_interval_or_the_list() -> None:
    assert parse().layer_types == (LINEAR, LINEAR, LINEAR, FULL) * 2
    assert parse(full_attention_interval=2).layer_types == (LINEAR, FULL) * 4
    kinds = [FULL, LINEAR] * 4
    assert parse(layer_types=kinds).layer_types == tuple(kinds)


def test_rope_is_read_from_either_place() -> None:
    new = parse(rope_parameters={"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5})
    assert (new.rope_theta, new.rotary_dim) == (5e5, 16)
    old = parse(rope_theta=1e7, partial_rotary_factor=1.0)
    assert (old.rope_theta, old.rotary_dim) == (1e7, 32)
    assert parse().rotary_dim == 8


def test_derived_sizes() -> None:
    config = parse(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=8)
    assert config.num_layers == 8
    assert config.conv_channels == 2 * 2 * 16 + 4 * 8


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"attn_output_gate": False}, "attn_output_gate"),
        ({"layer_types": [FULL]}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 8}, r"layer_types\[0\]"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"linear_num_key_heads": 5}, "linear_num_key_heads"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ({"mtp_num_hidden_layers": 2}, "mtp_num_hidden_layers"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        ({"layer_types": 8}, "layer_types"),
        ({"rope_parameters": "default"}, "rope_parameters"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": [1e6]}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"partial_rotary_factor": 3.0}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.1}, "partial_rotary_factor: 0.1 of head_dim 32"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        parse(**changes)


def test_files_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing"):
        ModelConfig.load(tmp_path)
    path = tmp_path / "config.json"
    for text, reason in (("{", "JSON"), ("[]", "object"), ("[" * 100_000, "JSON")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=reason):
            ModelConfig.load(tmp_path)
    path.write_text(json.dumps(FLAT), encoding="utf-8")
    assert ModelConfig.load(tmp_path) == parse()
