"""The embedded model as llama.cpp wants it: names, shapes, transformations, vocabulary. Whether llama.cpp runs it is
tried by `make test-llama-server`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from examples.embedded_model import to_gguf
from examples.embedded_model.gguf_file import Content, read
from examples.embedded_model.to_gguf import EMBEDDED, Unsupported, convert, new_name, renamed, sections, transformed

CONFIG = json.loads((EMBEDDED / "config.json").read_text())
LAYERS, HIDDEN, VOCABULARY = 6, 256, 2048


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return load_file(EMBEDDED / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Content:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    assert to_gguf.main(["--out", str(path), "--type", "f32"]) == 0
    return read(path)


def test_every_tensor_is_there_once(whole: Content, weights: dict[str, torch.Tensor]) -> None:
    assert len(whole.tensors) == len(weights)
    assert set(whole.tensors) == {new_name(name, CONFIG) for name in weights}
    assert "output.weight" not in whole.tensors, "the embeddings serve as output"


def test_shapes_are_those_that_the_architecture_loads(whole: Content) -> None:
    wanted = {
        "token_embd.weight": (VOCABULARY, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_qkv.weight": (768, HIDDEN),
        "blk.0.attn_gate.weight": (256, HIDDEN),
        "blk.0.ssm_conv1d.weight": (768, 4),
        "blk.0.ssm_a": (4,),
        "blk.0.ssm_dt.bias": (4,),
        "blk.0.ssm_alpha.weight": (4, HIDDEN),
        "blk.0.ssm_beta.weight": (4, HIDDEN),
        "blk.0.ssm_norm.weight": (64,),
        "blk.0.ssm_out.weight": (HIDDEN, 256),
        "blk.1.attn_q.weight": (2 * 4 * 64, HIDDEN),
        "blk.1.attn_k.weight": (2 * 64, HIDDEN),
        "blk.1.attn_q_norm.weight": (64,),
        "blk.1.attn_output.weight": (HIDDEN, 4 * 64),
        "blk.1.post_attention_norm.weight": (HIDDEN,),
        "blk.6.attn_norm.weight": (HIDDEN,),
        "blk.6.nextn.eh_proj.weight": (HIDDEN, 2 * HIDDEN),
        "blk.6.nextn.enorm.weight": (HIDDEN,),
        "blk.6.nextn.hnorm.weight": (HIDDEN,),
        "blk.6.nextn.shared_head_norm.weight": (HIDDEN,),
    }
    assert {name: tuple(whole.tensors[name].shape) for name in wanted} == wanted


def test_values_are_the_models_own(whole: Content, weights: dict[str, torch.Tensor]) -> None:
    """Undone here, transformation by transformation, from what is in the file."""
    for name, tensor in weights.items():
        stored, own = whole.tensors[new_name(name, CONFIG)], tensor.float()
        if name.endswith("A_log"):
            torch.testing.assert_close((-stored).log(), own)
        elif name.endswith("conv1d.weight"):
            assert torch.equal(stored.unsqueeze(1), own)
        elif "norm" in name and not name.endswith("linear_attn.norm.weight"):
            assert torch.equal(stored, own + 1), name
        else:
            assert torch.equal(stored, own), name


def test_matrices_keep_their_bits_in_bfloat16(weights: dict[str, torch.Tensor]) -> None:
    found = renamed(weights, CONFIG, torch.bfloat16)
    assert torch.equal(found["blk.1.ffn_up.weight"], weights["model.layers.1.mlp.up_proj.weight"])
    rest = {name: tensor.dtype for name, tensor in found.items() if tensor.ndim != 2 or "conv1d" in name}
    assert set(rest.values()) == {torch.float32}
    assert {tensor.dtype for name, tensor in found.items() if name not in rest} == {torch.bfloat16}


def test_metadata(whole: Content) -> None:
    told = {key.removeprefix("qwen35."): value for key, value in whole.metadata.items() if key.startswith("qwen35.")}
    assert whole.metadata["general.architecture"] == "qwen35"
    assert (told["block_count"], told["nextn_predict_layers"]) == (LAYERS + 1, 1)
    assert told["attention.recurrent_layers"] == [True, False] * 3 + [False]
    assert (told["rope.dimension_count"], told["rope.dimension_sections"]) == (16, [3, 3, 2, 0])
    assert (told["ssm.state_size"], told["ssm.group_count"], told["ssm.time_step_rank"]) == (64, 4, 4)
    assert told["ssm.inner_size"] == 256
    assert (told["attention.key_length"], told["attention.head_count_kv"]) == (64, 2)


def test_the_vocabulary_is_the_tokenizers(whole: Content) -> None:
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    tokens: Any = whole.metadata["tokenizer.ggml.tokens"]
    types: Any = whole.metadata["tokenizer.ggml.token_type"]
    assert tokens == [tokenizer.id_to_token(number) for number in range(VOCABULARY)]
    assert types[tokenizer.token_to_id("<tool_call>")] == to_gguf.USER_DEFINED, "it is part of what is said"
    assert types[tokenizer.token_to_id("<|im_end|>")] == to_gguf.CONTROL
    assert set(types[:2035]) == {to_gguf.NORMAL}
    assert whole.metadata["tokenizer.ggml.eos_token_id"] == tokenizer.token_to_id("<|im_end|>")
    merges: Any = whole.metadata["tokenizer.ggml.merges"]
    assert all(len(merge.split(" ")) == 2 and "".join(merge.split(" ")) in tokens for merge in merges)
    assert whole.metadata["tokenizer.chat_template"] == (EMBEDDED / "chat_template.jinja").read_text()


def test_without_the_mtp_block(tmp_path: Path) -> None:
    convert(EMBEDDED, tmp_path / "m.gguf", mtp=False)
    content = read(tmp_path / "m.gguf")
    assert not [name for name in content.tensors if name.startswith("blk.6.") or "nextn" in name]
    assert content.metadata["qwen35.block_count"] == LAYERS
    assert "qwen35.nextn_predict_layers" not in content.metadata


def test_value_heads_that_share_a_key_head_are_tiled() -> None:
    """Two key heads, four value heads: v0 v1 belong to k0, v2 v3 to k1; llama.cpp repeats keys as k0 k1 k0 k1."""
    config = CONFIG | {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 1}
    config |= {"linear_value_head_dim": 1}

    def after(name: str, tensor: torch.Tensor) -> Any:
        return transformed(f"model.layers.0.linear_attn.{name}", tensor, config, torch.float32).tolist()

    assert after("dt_bias", torch.tensor([0.0, 1.0, 2.0, 3.0])) == [0, 2, 1, 3]
    rows = torch.arange(8.0).unsqueeze(1)
    assert after("in_proj_qkv.weight", rows) == [[0], [1], [2], [3], [4], [6], [5], [7]]
    assert after("in_proj_z.weight", rows[:4]) == [[0], [2], [1], [3]]
    assert after("out_proj.weight", rows[:4].T.contiguous()) == [[0, 2, 1, 3]]
    assert after("conv1d.weight", rows.unsqueeze(1)) == [[0], [1], [2], [3], [4], [6], [5], [7]]


@pytest.mark.parametrize(("pairs", "wanted"), [(8, [3, 3, 2, 0]), (32, [11, 11, 10, 0]), (1, [1, 0, 0, 0])])
def test_sections_cover_all_rotated_pairs(pairs: int, wanted: list[int]) -> None:
    assert sections(pairs, None) == wanted
    assert sections(pairs, [pairs]) == [pairs, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "llama"}, "only qwen3_5"),
        ({"layer_types": ["full_attention"] * 6}, "no linear_attention"),
        ({"linear_value_head_dim": 32}, "differ"),
        ({"mtp_num_hidden_layers": 2}, "more than 1"),
    ],
)
def test_models_that_llama_cpp_would_not_run_are_refused(
    change: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG | change))
    assert to_gguf.main(["--out", str(tmp_path / "m.gguf"), "--model", str(tmp_path / "model")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists()


def test_an_unknown_tensor_is_refused(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(Unsupported, match=r"visual\.weight is no tensor"):
        renamed({"visual.weight": torch.zeros(1)}, CONFIG, torch.float32)
    with pytest.raises(Unsupported, match=r"lm_head\.weight is no tensor"):
        renamed({"lm_head.weight": torch.zeros(1)}, CONFIG, torch.float32)
