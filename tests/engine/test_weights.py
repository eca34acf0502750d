"""Tensors are consumed exactly once, wherever in the folder they lie, or the error names the tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import WeightError
from engine.model import Model
from engine.weights import Weights
from tests.engine.zoo import (
    ARCHITECTURES,
    edit,
    fuse_experts,
    mtp_tensors,
    reference,
    split_grouped,
    variant,
    wrap_names,
)
from tests.engine.zoo import write as write_tiny

PREFIX = "model.language_model."


def write(path: Path, **shapes: tuple[int, ...]) -> None:
    save_file({name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, a vision tower, and MTP tensors in a sidecar file."""
    save_file({f"{PREFIX}embed_tokens.weight": torch.ones(4, 2)}, tmp_path / "a.safetensors")
    save_file({f"{PREFIX}norm.weight": torch.zeros(2), "model.visual.x": torch.ones(1)}, tmp_path / "b.safetensors")
    save_file({"mtp.fc.weight": torch.ones(2, 4)}, tmp_path / "mtp.safetensors")
    where = {f"{PREFIX}embed_tokens.weight": "a.safetensors", f"{PREFIX}norm.weight": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}), encoding="utf-8")
    return tmp_path


def test_shards_wrapper_prefix_and_sidecar(folder: Path) -> None:
    weights = Weights(folder)
    assert weights.has("mtp.fc.weight")
    assert weights.take("embed_tokens.weight", (4, 2), torch.bfloat16).dtype == torch.bfloat16
    weights.take("norm.weight", (2,), torch.float32)
    with pytest.raises(WeightError, match=r"mtp\.fc\.weight"):
        weights.finish()
    weights.take("mtp.fc.weight", (2, 4), torch.float32)
    weights.finish()


def test_a_tensor_is_taken_once_and_with_its_shape(folder: Path) -> None:
    weights = Weights(folder)
    with pytest.raises(WeightError, match=r"embed_tokens\.weight: has shape \[4, 2\]"):
        weights.take("embed_tokens.weight", (4, 3), torch.float32)
    weights = Weights(folder)
    weights.take("norm.weight", (2,), torch.float32)
    with pytest.raises(WeightError, match=r"norm\.weight: is missing"):
        weights.take("norm.weight", (2,), torch.float32)
    assert not weights.has("norm.weight")


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.ones(2, 2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightError, match="floating point"):
        Weights(tmp_path).take("embed_tokens.weight", (2, 2), torch.float32)


def test_broken_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match=r"model\.safetensors: is missing"):
        Weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    with pytest.raises(WeightError, match="not a readable safetensors file"):
        Weights(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    for text in (
        "{}",
        "[]",
        '{"weight_map": ["a"]}',
        '{"weight_map": {"a": {}}}',
        '{"weight_map": {"a": 1, "b": "c"}}',
    ):
        index.write_text(text, encoding="utf-8")
        with pytest.raises(WeightError, match="weight_map"):
            Weights(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}), encoding="utf-8")
    with pytest.raises(WeightError, match=r"gone\.safetensors: is missing"):
        Weights(tmp_path)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "sub/model.safetensors", "", 5, "{folder}/x.safetensors"])
def test_files_outside_the_folder_are_never_opened(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path / "elsewhere.safetensors", folder / "x.safetensors", folder / "elsewhere.safetensors"):
        write(place, model__embed_tokens__weight=(2, 2))
    if isinstance(name, str):
        name = name.replace("{folder}", str(folder))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}), encoding="utf-8")
    with pytest.raises(WeightError, match="is not the name of a file in the model's folder"):
        Weights(folder)


def test_a_missing_tensor_beside_the_text_model_is_called_by_its_own_name(folder: Path) -> None:
    for name in ("mtp.norm.weight", "lm_head.weight"):
        with pytest.raises(WeightError, match=f"^{name}: is missing"):
            Weights(folder).take(name, (2,), torch.float32)


def test_a_tensor_that_lies_in_two_files_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", mtp__fc__weight=(2, 4))
    write(tmp_path / "mtp.safetensors", mtp__fc__weight=(2, 4))
    with pytest.raises(WeightError, match=r"mtp\.fc\.weight: is in model\.safetensors and in mtp\.safetensors"):
        Weights(tmp_path)


def test_a_tensor_that_no_part_wants_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    for path in tiny_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write(tmp_path / "mtp.safetensors", model__layers__9__surprise=(1,))
    with pytest.raises(WeightError, match=r"model\.layers\.9\.surprise"):
        Model.load(tmp_path)


def test_a_text_model_loads_alike_under_the_names_of_its_wrapper(tmp_path: Path) -> None:
    for architecture in ("qwen3_5", "qwen3_5_moe"):
        text = write_tiny(tmp_path / architecture, architecture)
        wrapped = variant(text, tmp_path / f"{architecture}-wrapped", wrap_names)
        fields = json.loads((text / "config.json").read_text(encoding="utf-8"))
        outer = {"model_type": architecture, "text_config": fields, "vision_config": {"hidden_size": 9}}
        (wrapped / "config.json").write_text(json.dumps(outer), encoding="utf-8")
        assert torch.equal(hidden(wrapped), hidden(text))


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next", "qwen3_5_moe"])
def test_both_layouts_of_experts_are_the_same_model(tmp_path: Path, architecture: str) -> None:
    each = write_tiny(tmp_path / "each", architecture)
    fused = variant(each, tmp_path / "fused", fuse_experts)
    assert torch.equal(hidden(fused), hidden(each))


def test_grouped_and_separate_projections_are_the_same_model(tmp_path: Path) -> None:
    grouped = write_tiny(tmp_path / "grouped", "qwen3_next")
    separate = variant(grouped, tmp_path / "separate", split_grouped)
    assert torch.equal(hidden(separate), hidden(grouped))


@pytest.mark.parametrize(("architecture", "sparse"), [("qwen3_5", False), ("qwen3_5_moe", True), ("qwen3_next", True)])
def test_the_drafting_head_lies_inside_beside_or_nowhere(tmp_path: Path, architecture: str, sparse: bool) -> None:
    bare = write_tiny(tmp_path / "bare", architecture)
    edit(bare, mtp_num_hidden_layers=1)
    inside = variant(bare, tmp_path / "inside", lambda t: t | mtp_tensors(sparse=sparse))
    beside = variant(bare, tmp_path / "beside", dict)
    save_file(mtp_tensors(sparse=sparse), beside / "mtp.safetensors")
    drafts = []
    for folder in (inside, beside):
        model = Model.load(folder)
        assert model.mtp is not None and model.notes == ()
        cache = model.new_state().mtp
        assert cache is not None
        drafts.append(model.mtp.fill(cache, 0, [1, 2, 3], torch.ones(3, model.config.hidden_size))[0])
    assert torch.equal(*drafts)
    model = Model.load(bare)
    assert model.mtp is None
    assert model.notes == ("config.json announces an MTP head, but no file holds mtp.* tensors; MTP is off",)
    edit(bare, mtp_num_hidden_layers=None)
    assert Model.load(bare).notes == ()


def test_a_head_of_which_a_part_is_missing_is_named(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "source", "qwen3_5_moe")
    for gone, named in (
        ("mtp.norm.weight", r"^mtp\.norm\.weight: is missing"),
        ("mtp.layers.0.mlp.experts.3.down_proj.weight", r"experts\.3\.down_proj\.weight: is missing"),
        ("mtp.fc.weight", r"belong to no part of the model: mtp\.layers\.0"),
    ):
        kept = {n: t for n, t in mtp_tensors(sparse=True).items() if n != gone}
        with pytest.raises(WeightError, match=named):
            Model.load(variant(source, tmp_path / gone, lambda t, kept=kept: t | kept))  # type: ignore[misc]


def test_a_family_without_a_drafting_head_does_not_take_one(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "source", "qwen3")
    folder = variant(source, tmp_path / "model", lambda t: t | {"mtp.fc.weight": torch.ones(2, 2)})
    with pytest.raises(WeightError, match=r"mtp\.fc\.weight"):
        Model.load(folder)


def test_a_tied_head_may_be_stored_but_must_be_the_embedding_to_be_dropped(tmp_path: Path) -> None:
    """As transformers does: two different matrices are not tied, whatever the configuration says."""
    tied = write_tiny(tmp_path / "tied", "qwen3", tied=True)
    name = "model.embed_tokens.weight"
    same = Model.load(variant(tied, tmp_path / "same", lambda t: t | {"lm_head.weight": t[name].clone()}))
    x = torch.randn(3, same.embedding.shape[1])
    torch.testing.assert_close(same.head(x), x @ same.embedding.T)
    assert same.notes == ()
    folder = variant(tied, tmp_path / "other", lambda t: t | {"lm_head.weight": t[name] * 2})
    other = Model.load(folder)
    torch.testing.assert_close(other.head(x), x @ other.embedding.T * 2)
    assert len(other.notes) == 1 and "lm_head.weight differs" in other.notes[0]
    ids = [1, 2, 3]
    logits = other.head(other.prefill(other.new_state(), ids))
    assert (logits - reference(folder, ids)).abs().max() < 1e-4


def test_an_untied_head_must_be_there(tmp_path: Path) -> None:
    tied = write_tiny(tmp_path / "tied", "qwen3", tied=True)
    edit(tied, tie_word_embeddings=False)
    with pytest.raises(WeightError, match=r"^lm_head\.weight: is missing"):
        Model.load(tied)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_is_needed_and_none_is_left(tmp_path: Path, architecture: str) -> None:
    """Without any one of its tensors the model does not load, and the error names that tensor."""
    folder = write_tiny(tmp_path / "model", architecture, num_hidden_layers=2, **two_layers(architecture))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        save_file({n: t for n, t in tensors.items() if n != name}, path)
        with pytest.raises(WeightError, match=rf"(^|\W){re.escape(name)}: is missing"):
            Model.load(folder)
    save_file(tensors | {"model.layers.1.mlp.extra.weight": torch.ones(1)}, path)
    with pytest.raises(WeightError, match=r"model\.layers\.1\.mlp\.extra\.weight"):
        Model.load(folder)


def two_layers(architecture: str) -> dict[str, list[str]]:
    hybrid = "layer_types" in ARCHITECTURES[architecture][2]
    return {"layer_types": ["linear_attention", "full_attention"]} if hybrid else {}


def hidden(folder: Path) -> torch.Tensor:
    model = Model.load(folder)
    return model.prefill(model.new_state(), list(range(30, 50)))
