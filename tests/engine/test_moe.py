"""Mixture of experts: against loops, and the bits of a row in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import ConfigError, WeightError
from engine.layers import SwiGlu
from engine.model import Model
from engine.moe import MoE, feed_forward
from engine.weights import Weights
from tests.engine.zoo import HIDDEN, edit, fuse_experts, variant, write

PREFIX = "layers.1.mlp."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("moe") / "next", "qwen3_next")


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("moe") / "plain", "qwen3_moe", seed=1)


def block(folder: Path, dtype: torch.dtype = torch.float32) -> MoE:
    mlp = feed_forward(Weights(folder), PREFIX, ModelConfig.load(folder), dtype, sparse=True)
    assert isinstance(mlp, MoE)
    return mlp


def inputs(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed))


def expected(folder: Path, x: Tensor) -> Tensor:
    """One row and one expert at a time, in fp64."""
    config = ModelConfig.load(folder)
    assert config.moe is not None
    tensors = {n: t.double() for n, t in load_file(folder / "model.safetensors").items()}

    def swiglu(prefix: str, row: Tensor) -> Tensor:
        gate, up, down = (tensors[f"model.{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
        out: Tensor = down @ (F.silu(gate @ row) * (up @ row))
        return out

    rows = []
    for row in x.double():
        probabilities = (tensors[f"model.{PREFIX}gate.weight"] @ row).softmax(-1)
        best = sorted(range(config.moe.experts), key=lambda e: -float(probabilities[e]))[: config.moe.chosen]
        total = sum(float(probabilities[e]) for e in best) if config.moe.normalised else 1.0
        out = torch.zeros(HIDDEN, dtype=torch.float64)
        for expert in best:
            out += probabilities[expert] / total * swiglu(f"{PREFIX}experts.{expert}.", row)
        if config.moe.shared_size:
            gate = torch.sigmoid(tensors[f"model.{PREFIX}shared_expert_gate.weight"] @ row)
            out += gate * swiglu(f"{PREFIX}shared_expert.", row)
        rows.append(out)
    return torch.stack(rows).float()


@pytest.mark.parametrize("rows", [1, 5, 8, 40])
@pytest.mark.parametrize("which", ["folder", "plain_folder"])
def test_equals_one_row_and_one_expert_at_a_time(which: str, rows: int, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(which)
    x = inputs(rows)
    torch.testing.assert_close(block(path)(x), expected(path, x), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", ["folder", "plain_folder"])
def test_a_row_has_the_same_bits_in_any_company(which: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    """8 rows alone, inside 16, 32 and 128 rows, at other places, and beside other rows."""
    mlp = block(request.getfixturevalue(which), dtype)
    x = inputs(128).to(dtype)
    alone = mlp(x[:8].clone())
    for rows in (16, 32, 128):
        assert torch.equal(mlp(x[:rows].clone())[:8], alone)
    shuffled = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mlp(x[shuffled])[shuffled.argsort()][:8], alone)
    for rows in (8, 24):
        other = inputs(rows, 2).to(dtype)
        for index in range(8):
            other[index] = x[index]
            assert torch.equal(mlp(other)[index], alone[index])


def test_rows_that_all_choose_the_same_experts_are_no_exception(folder: Path) -> None:
    """Then an expert has 128 rows; beside others each has a few, gathered and padded."""
    mlp, row = block(folder), inputs(1)
    crowd, company = row.repeat(128, 1), inputs(128, 3)
    company[77] = row[0]
    assert torch.equal(mlp(crowd)[5], mlp(company)[77])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_expert_is_computed_for_padding_alone(
    folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the real rows keep their bits."""
    mlp, x, used = block(folder, dtype), inputs(16).to(dtype), set[int]()
    whole = mlp(x)
    sound = MoE._expert

    def watched(self: MoE, expert: int, x: Tensor, at: Tensor) -> Tensor:
        used.add(expert)
        return sound(self, expert, x, at)

    monkeypatch.setattr(MoE, "_expert", watched)
    for real in ([0], [0, 1, 2], [8, 15], list(range(16))):
        used.clear()
        mask = torch.zeros(16, dtype=torch.bool)
        mask[real] = True
        assert torch.equal(mlp(x, mask)[real], whole[real])
        ids, _ = mlp.route(F.linear(x[real].float(), mlp.router)[:, :8])
        assert used == set(ids.flatten().tolist())


def test_a_model_tells_its_experts_which_rows_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In decoding and in a prefill that fills a part of a chunk."""
    model, rows = Model.load(folder), set[int]()
    sound = MoE._expert

    def watched(self: MoE, expert: int, x: Tensor, at: Tensor) -> Tensor:
        rows.update(at.tolist())
        return sound(self, expert, x, at)

    monkeypatch.setattr(MoE, "_expert", watched)
    state = model.new_state()
    model.prefill(state, [1, 2, 3])
    assert rows == {0, 1, 2}
    rows.clear()
    model.prefill(state, [4, 5])
    assert rows == {3, 4}
    rows.clear()
    model.decode(state, [6, 7])
    assert rows == {0, 1}


def test_a_broken_row_does_not_reach_the_others(folder: Path) -> None:
    mlp, x = block(folder), inputs(16)
    sound = mlp(x)
    x[3], x[9] = torch.nan, torch.inf
    broken = mlp(x)
    assert broken[3].isnan().all()
    kept = [i for i in range(16) if i not in (3, 9)]
    assert torch.equal(broken[kept], sound[kept])


def test_ties_go_to_the_lowest_id(folder: Path) -> None:
    scores = torch.zeros(2, 8)
    scores[1, 6] = 1.0
    ids, shares = block(folder).route(scores)
    assert ids.tolist() == [[0, 1, 2], [6, 0, 1]]
    torch.testing.assert_close(shares.sum(-1), torch.ones(2))


def test_shares_add_up_only_where_the_model_says_so(plain_folder: Path) -> None:
    scores = inputs(4)[:, :8]
    ids, shares = block(plain_folder).route(scores)
    torch.testing.assert_close(shares, scores.softmax(-1).gather(1, ids))
    assert (shares.sum(-1) < 0.999).all()


def test_the_router_decides_in_fp32(folder: Path, tmp_path: Path) -> None:
    """Two experts whose router rows bf16 cannot tell apart, in a model that runs in bf16."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        router = torch.zeros(8, HIDDEN)
        router[2], router[5] = 1.0, 1.0 + 2**-12
        return tensors | {f"model.{PREFIX}gate.weight": router}

    near = variant(folder, tmp_path / "near", change)
    mlp = block(near, torch.bfloat16)
    x = torch.ones(8, HIDDEN)
    ids, _ = mlp.route(F.linear(x, mlp.router)[:, :8])
    assert ids[0, :2].tolist() == [5, 2]


def test_both_layouts_are_the_same_experts(folder: Path, tmp_path: Path) -> None:
    fused = variant(folder, tmp_path / "fused", fuse_experts)
    one, other = block(folder), block(fused)
    assert torch.equal(one.gate_up, other.gate_up)
    assert torch.equal(one.down, other.down)


def test_a_missing_expert_is_named(folder: Path, tmp_path: Path) -> None:
    name = f"model.{PREFIX}experts.7.up_proj.weight"
    lacking = variant(folder, tmp_path / "lacking", lambda t: {n: x for n, x in t.items() if n != name})
    with pytest.raises(WeightError, match=r"experts\.7\.up_proj\.weight: is missing"):
        block(lacking)


def test_experts_of_another_count_are_named(folder: Path, tmp_path: Path) -> None:
    fused = variant(folder, tmp_path / "fused", fuse_experts, num_experts=9)
    with pytest.raises(WeightError, match=r"gate\.weight: has shape \[8, 64\]"):
        block(fused)


@pytest.mark.parametrize(
    ("changes", "sparse", "reason"),
    [({"intermediate_size": None}, False, "intermediate_size"), ({"num_experts": 0}, True, "num_experts")],
)
def test_a_kind_of_block_without_its_sizes_is_refused(
    tmp_path: Path, changes: dict[str, Any], sparse: bool, reason: str
) -> None:
    folder = write(tmp_path / "model", "qwen3_next")
    edit(folder, **changes)
    with pytest.raises(ConfigError, match=f"^{reason}: "):
        feed_forward(Weights(folder), PREFIX, ModelConfig.load(folder), torch.float32, sparse=sparse)


def test_dense_blocks_are_plain(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "qwen3_next", mlp_only_layers=[1])
    mlp = feed_forward(Weights(folder), PREFIX, ModelConfig.load(folder), torch.float32, sparse=False)
    assert isinstance(mlp, SwiGlu)


def test_an_expert_that_a_row_did_not_choose_adds_nothing_to_it(folder: Path) -> None:
    """Not even 0 times its output: that output may be infinite."""
    mlp, x = block(folder), inputs(8)
    sound = mlp(x)
    ids, _ = mlp.route(F.linear(x, mlp.router)[:, : mlp.experts])
    mlp.down[5] = torch.inf
    broken = mlp(x)
    chose = (ids == 5).any(-1)
    assert chose.any() and not chose.all()
    assert torch.equal(broken[~chose], sound[~chose])
    assert not broken[chose].isfinite().any()


@pytest.mark.parametrize("which", ["folder", "plain_folder"])
def test_gathered_experts_are_the_chosen_ones(which: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(which)
    mlp, x = block(path), inputs(16)
    mlp.gathers = True
    torch.testing.assert_close(mlp(x, rows=range(16)), expected(path, x).float(), atol=1e-4, rtol=1e-4)
    some, real = mlp(x, rows=[0, 1, 8]), [0, 1, 8]
    assert torch.equal(some[real], mlp(x, rows=range(16))[real])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gathered_row_has_the_same_bits_in_any_company(folder: Path, dtype: torch.dtype) -> None:
    mlp, x = block(folder, dtype), inputs(1).to(dtype)
    mlp.gathers = True
    alone = mlp(x.repeat(8, 1), rows=[0])[0]
    for at in range(8):
        company = inputs(8, 3 + at).to(dtype)
        company[at] = x[0]
        assert torch.equal(mlp(company, rows=range(8))[at], alone)
