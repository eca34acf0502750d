"""config.json: nested, flattened or hybrid files are read alike, and what is not supported is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import FULL, LINEAR, ModelConfig, MoeConfig, YarnConfig
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


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}


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
    assert parse(model_type="qwen3").rotary_dim == 32


def test_yarn_extends_the_context() -> None:
    config = parse(model_type="qwen3", rope_theta=1e6, rope_scaling=YARN)
    assert config.yarn == YarnConfig(4.0, 512, None, 32.0, 1.0, True)
    assert (config.rope_theta, config.max_context) == (1e6, 2048)
    full = {**YARN, "attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2, "truncate": False, "factor": 1.5}
    config = parse(rope_parameters=full)
    assert config.yarn == YarnConfig(1.5, 512, 1.5, 16.0, 2.0, False)
    assert config.max_context == 1024, "never less than the file states"


def test_experts_of_each_family() -> None:
    every = tuple(range(8))
    qwen3 = parse(model_type="qwen3_moe", **MOE)
    assert qwen3.moe == MoeConfig(every, 8, 2, 16, 0, False)
    assert parse(model_type="qwen3_next", **MOE).moe == MoeConfig(every, 8, 2, 16, 24, True)
    assert parse(model_type="qwen3_5_moe_text", **MOE, intermediate_size=None).moe == MoeConfig(
        every, 8, 2, 16, 24, True
    )
    some = parse(model_type="qwen3_next", **MOE, decoder_sparse_step=2, mlp_only_layers=[3], norm_topk_prob=False)
    assert some.moe == MoeConfig((1, 5, 7), 8, 2, 16, 24, False)
    step = parse(model_type="qwen3_moe", **MOE, decoder_sparse_step=2).moe
    assert step is not None and step.layers == (1, 3, 5, 7)
    assert parse(model_type="qwen3_moe", **{**MOE, "num_experts": 0}).moe is None
    assert parse(model_type="qwen3_moe", **MOE, mlp_only_layers=list(every)).moe is None
    assert parse(**MOE).moe is None, "the dense family has none, whatever stands in its file"


def test_transformers_calls_the_number_of_experts_otherwise() -> None:
    other = {**MOE, "num_experts": None, "num_local_experts": 8}
    assert parse(model_type="qwen3_moe", **other) == parse(model_type="qwen3_moe", **MOE)
    assert parse(model_type="qwen3_moe", **MOE, num_local_experts=8) == parse(model_type="qwen3_moe", **MOE)


def test_families_without_linear_layers_have_no_sizes_for_them() -> None:
    config = parse(model_type="qwen3", head_dim=None, linear_num_key_heads=5)
    assert config.layer_types == (FULL,) * 8
    assert (config.head_dim, config.linear_key_heads, config.conv_channels) == (128, 0, 0)
    assert parse(model_type="qwen3_moe", head_dim=None, **MOE).head_dim == 64 // 4


def test_the_drafting_head_is_announced_under_either_name() -> None:
    assert parse(mtp_num_hidden_layers=1).mtp_layers == 1
    assert parse(model_type="qwen3_next", **MOE, num_nextn_predict_layers=1).mtp_layers == 1
    assert parse(model_type="qwen3", mtp_num_hidden_layers=1).mtp_layers == 0


def test_a_wrapper_decides_whether_its_head_is_tied() -> None:
    for outer, inner, tied in ((False, True, False), (True, False, True), (None, True, True), (None, None, False)):
        text = {**FLAT, "tie_word_embeddings": inner}
        config = ModelConfig.parse({"model_type": "qwen3_5", "text_config": text, "tie_word_embeddings": outer})
        assert config.tie_word_embeddings is tied


def test_fp8_blocks_are_read_from_either_level() -> None:
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 64]}
    assert parse().fp8_block is None
    assert parse(quantization_config=fp8).fp8_block == (128, 64)
    assert ModelConfig.parse({"text_config": FLAT, "quantization_config": fp8}).fp8_block == (128, 64)


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
        ({"quantization_config": {"bits": 4}}, r"quantization_config\.quant_method: None"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config\.quant_method: 'gptq'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"attn_output_gate": False}, "attn_output_gate"),
        ({"layer_types": [FULL]}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 8}, r"layer_types\[0\]"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"linear_num_key_heads": 5}, "linear_num_key_heads"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"rope_parameters\.factor: is missing"),
        ({"rope_parameters": {**YARN, "rope_theta": 1}}, "rope_theta: must be above 1"),
        ({"rope_scaling": {"type": "dynamic"}}, r"rope_scaling\.rope_type: 'dynamic'"),
        ({"rope_parameters": {**YARN, "mscale": 1.0}}, r"rope_parameters\.mscale"),
        ({"rope_parameters": {**YARN, "factor": "4"}}, r"rope_parameters\.factor"),
        ({"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim"),
        ({"model_type": "qwen3", "attn_output_gate": True}, "attn_output_gate: only False"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "qwen3", "layer_types": ["linear_attention"] * 8}, r"layer_types\[0\]: 'linear_attention'"),
        ({"model_type": "qwen3_moe"}, "num_experts: is missing"),
        ({"model_type": "qwen3_moe", **MOE, "num_experts_per_tok": 9}, "num_experts_per_tok: 9 is more than the 8"),
        ({"model_type": "qwen3_moe", **MOE, "num_local_experts": 4}, "num_experts: 8, but num_local_experts is 4"),
        ({"model_type": "qwen3_moe", **MOE, "mlp_only_layers": "1"}, "mlp_only_layers"),
        ({"model_type": "qwen3_moe", **MOE, "intermediate_size": None, "mlp_only_layers": [1]}, "intermediate_size"),
        ({"model_type": "qwen3_next", **MOE, "shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size"),
        ({"model_type": "qwen3_next", **MOE, "num_nextn_predict_layers": 2}, "num_nextn_predict_layers: 2"),
        ({"model_type": "qwen3_5_moe", **MOE, "norm_topk_prob": False}, "norm_topk_prob: only True"),
        ({"model_type": "qwen3_5_moe", **MOE, "mlp_only_layers": [1]}, r"mlp_only_layers: only \[\]"),
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
