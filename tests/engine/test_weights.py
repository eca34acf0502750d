"""Tensors are consumed exactly once, wherever in the folder they lie, or the error names the tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import WeightError
from engine.model import Model
from engine.weights import Weights

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
