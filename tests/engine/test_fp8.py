"""FP8 block weights: the scale multiplies, edges of the blocks are right, and what is doubtful is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import ConfigError, WeightError
from engine.fields import Fields
from engine.fp8 import dequantise, read_block
from engine.model import Model
from engine.weights import Weights
from tests.engine.zoo import edit, fuse_experts, mtp_tensors, reference, variant, write

OFFICIAL: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"],
}
KEPT = (
    "norm",
    "embed_tokens",
    "lm_head",
    "mlp.gate.",
    "shared_expert_gate",
    "conv1d",
    "A_log",
    "dt_bias",
    "in_proj_ba",
)
"""Names that the published FP8 files leave in bf16."""


def quantise(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Block by block, written with loops: (float8 values, scale = largest value / 448)."""
    rows, columns = weight.shape
    scale = torch.zeros(-(-rows // block[0]), -(-columns // block[1]))
    values = torch.zeros_like(weight)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            at = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            scale[i, j] = weight[at].abs().max() / 448
            values[at] = weight[at] / scale[i, j]
    return values.to(torch.float8_e4m3fn), scale


def restored(values: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    out = values.float()
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            out[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]] *= scale[i, j]
    return out


def quantised(tensors: dict[str, Tensor], block: tuple[int, int]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if any(part in name for part in KEPT):
            out[name] = tensor.bfloat16()
        elif tensor.dim() == 3:
            pairs = [quantise(matrix, block) for matrix in tensor]
            out[name] = torch.stack([values for values, _ in pairs])
            out[f"{name}_scale_inv"] = torch.stack([scale for _, scale in pairs])
        else:
            out[name], out[f"{name}_scale_inv"] = quantise(tensor, block)
    return out


def plain(tensors: dict[str, Tensor], block: tuple[int, int]) -> dict[str, Tensor]:
    """What an FP8 file means, as fp32 tensors."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        scale = tensors.get(f"{name}_scale_inv")
        if not name.endswith("_scale_inv"):
            out[name] = tensor.float() if scale is None else restored(tensor, scale, block)
    return out


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (3, 2), (128, 1)])
def test_a_block_is_multiplied_by_its_scale(shape: tuple[int, int]) -> None:
    block = (2, 3)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[: block[0], : block[1]] *= 1000
    values, scale = quantise(weight, block)
    out = dequantise("x", values, scale, block)
    assert torch.equal(out, restored(values, scale, block))
    assert ((out - weight).abs() <= weight.abs() / 16 + scale.max() * 2**-9).all()


def test_agrees_with_the_dequantiser_of_transformers() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    values, scale = quantise(torch.randn(32, 48), (16, 24))
    theirs = Fp8Dequantize(None)._dequantize_one(values, scale, torch.float32)
    assert torch.equal(dequantise("x", values, scale, (16, 24)), theirs)


def test_scales_that_are_powers_of_two_may_be_stored_as_such() -> None:
    values, scale = torch.ones(2, 4).to(torch.float8_e4m3fn), torch.tensor([[0.5, 8.0]])
    for kind in (torch.bfloat16, torch.float8_e8m0fnu):
        assert torch.equal(dequantise("x", values, scale.to(kind), (2, 2)), restored(values, scale, (2, 2)))
    with pytest.raises(WeightError, match=r"^x_scale_inv: has type torch\.uint8"):
        dequantise("x", values, torch.tensor([[126, 130]], dtype=torch.uint8), (2, 2))


def test_stacked_experts_are_dequantised_one_by_one() -> None:
    block, weights = (4, 4), torch.randn(3, 6, 10)
    pairs = [quantise(w, block) for w in weights]
    out = dequantise("x", torch.stack([v for v, _ in pairs]), torch.stack([s for _, s in pairs]), block)
    assert torch.equal(out, torch.stack([restored(v, s, block) for v, s in pairs]))


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_moe"])
def test_an_fp8_folder_is_the_model_that_its_values_mean(architecture: str, tmp_path: Path) -> None:
    """Blocks smaller than the tiny matrices, so that several scales take part; against transformers on plain fp32."""
    block = (16, 24)
    source = write(tmp_path / "source", architecture)
    fp8 = variant(
        source,
        tmp_path / "fp8",
        lambda t: quantised(t, block),
        quantization_config={**OFFICIAL, "weight_block_size": list(block)},
    )
    fp32 = variant(fp8, tmp_path / "fp32", lambda t: plain(t, block))
    edit(fp32, quantization_config=None)
    ids = list(range(20, 90))
    expected = reference(fp32, ids)
    model = Model.load(fp8)
    assert (model.head(model.prefill(model.new_state(), ids)) - expected).abs().max() < 1e-4
    assert expected.std() > 0.5
    assert any("FP8 tensors are held as float32" in note for note in model.notes)


@pytest.mark.parametrize("fused", [False, True])
def test_fp8_experts_in_both_layouts_and_in_the_drafting_head(tmp_path: Path, fused: bool) -> None:
    block = (16, 24)  # the halves of a fused gate_up lie in different blocks: 24 rows each
    source = write(tmp_path / "source", "qwen3_5_moe")

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        every = tensors | mtp_tensors(sparse=True)
        return quantised(fuse_experts(every) if fused else every, block)

    config = {**OFFICIAL, "weight_block_size": list(block)}
    fp8 = variant(source, tmp_path / "fp8", change, quantization_config=config, mtp_num_hidden_layers=1)
    fp32 = variant(fp8, tmp_path / "fp32", lambda t: stacked_plain(t, block))
    edit(fp32, quantization_config=None)
    ours, theirs = Model.load(fp8), Model.load(fp32)
    ids = list(range(40))
    hidden = ours.prefill(ours.new_state(), ids)
    assert torch.equal(hidden, theirs.prefill(theirs.new_state(), ids))
    assert ours.mtp is not None and theirs.mtp is not None
    logits = []
    for model in (ours, theirs):
        cache = model.new_state().mtp
        assert model.mtp is not None and cache is not None
        logits.append(model.mtp.fill(cache, 0, ids[1:], hidden[:-1])[1])
    # one row takes a kernel whose last bits depend on where in memory the weights lie
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def stacked_plain(tensors: dict[str, Tensor], block: tuple[int, int]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        scale = tensors.get(f"{name}_scale_inv")
        if scale is not None and tensor.dim() == 3:
            out[name] = torch.stack([restored(t, s, block) for t, s in zip(tensor, scale, strict=True)])
        elif not name.endswith("_scale_inv"):
            out[name] = tensor.float() if scale is None else restored(tensor, scale, block)
    return out


def test_the_official_configuration_is_read() -> None:
    assert read_block(Fields(OFFICIAL)) == (128, 128)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quant_method": "awq"}, "quant_method: 'awq' is not supported"),
        ({"quant_method": None}, "quant_method: None is not supported"),
        ({"activation_scheme": "static"}, "activation_scheme: only 'dynamic'"),
        ({"fmt": "e5m2"}, "fmt: only 'e4m3'"),
        ({"weight_block_size": None}, "weight_block_size: must be two sizes"),
        ({"weight_block_size": [128]}, "weight_block_size: must be two sizes"),
        ({"weight_block_size": [0, 128]}, "weight_block_size: must be two sizes"),
        ({"weight_block_size": 128}, "weight_block_size: must be a list"),
    ],
)
def test_other_formats_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    quantisation = Fields({"quantization_config": {**OFFICIAL, **changes}}).nested("quantization_config")
    assert quantisation is not None
    with pytest.raises(ConfigError, match=rf"^quantization_config\.{field}"):
        read_block(quantisation)


@pytest.mark.parametrize(
    ("tensors", "block", "reason"),
    [
        ({"x.weight": "fp8"}, (2, 2), r"x\.weight_scale_inv: is missing"),
        ({"x.weight": "fp8", "x.weight_scale_inv": (1, 2)}, (2, 2), r"x\.weight_scale_inv: has shape \[1, 2\]"),
        ({"x.weight": "fp8", "x.weight_scale_inv": (2, 2)}, None, r"x\.weight: .* no quantization_config"),
        ({"x.weight": "e5m2", "x.weight_scale_inv": (2, 2)}, (2, 2), r"x\.weight: has type torch\.float8_e5m2"),
        ({"x.weight": (4, 4), "x.weight_scale_inv": (2, 2)}, (2, 2), r"x\.weight_scale_inv: is a scale for float8"),
    ],
)
def test_tensors_that_contradict_each_other_are_named(
    tmp_path: Path, tensors: dict[str, Any], block: tuple[int, int] | None, reason: str
) -> None:
    kinds = {"fp8": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
    written = {
        f"model.{name}": torch.ones(4, 4).to(kinds[what]) if isinstance(what, str) else torch.ones(what)
        for name, what in tensors.items()
    }
    save_file(written, tmp_path / "model.safetensors")
    with pytest.raises(WeightError, match=reason):
        Weights(tmp_path, fp8_block=block).take("x.weight", (4, 4), torch.float32)


def test_a_scale_is_taken_with_its_weight(tmp_path: Path) -> None:
    values, scale = quantise(torch.randn(4, 4), (2, 2))
    save_file({"model.x.weight": values, "model.x.weight_scale_inv": scale.bfloat16()}, tmp_path / "model.safetensors")
    weights = Weights(tmp_path, fp8_block=(2, 2))
    taken = weights.take("x.weight", (4, 4), torch.bfloat16)
    assert torch.equal(taken, restored(values, scale.bfloat16().float(), (2, 2)).bfloat16())
    weights.finish()
    assert weights.dequantised == 1


def test_a_one_dimensional_float8_tensor_is_refused() -> None:
    with pytest.raises(WeightError, match="x_scale_inv: has shape"):
        dequantise("x", torch.ones(4).to(torch.float8_e4m3fn), torch.ones(2), (2, 2))
