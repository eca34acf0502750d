"""Training on a tiny scale: losses, batches, the schedule, and real runs that stop, save and go on."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from examples.embedded_model import train
from examples.embedded_model.model import Shape, TrainableModel

Run = Callable[..., list[float]]


def small(**changes: int) -> TrainableModel:
    torch.manual_seed(2)
    sizes = {
        "vocab_size": 80,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }
    return TrainableModel(Shape(**(sizes | changes)))


def batch(weight: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 80, (3, 20), generator=torch.Generator().manual_seed(1))
    return tokens, torch.full((3, 20), weight)


def nats(model: TrainableModel, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Loss of each token, [rows, columns]."""
    return -F.log_softmax(model.logits(states), -1).gather(-1, wanted[..., None])[..., 0]


def test_the_loss_is_the_weighted_mean_over_tokens() -> None:
    model, (tokens, _) = small(), batch()
    weights = torch.tensor(random.Random(1).choices((0.0, 0.2, 1.0, 6.0), k=60)).view(3, 20)
    with torch.no_grad():
        total, shown = train.loss_of(model, tokens, weights, depths=1)
        losses, w = nats(model, model(tokens)[:, :-1], tokens[:, 1:]), weights[:, 1:]
    assert float(total) == pytest.approx(float((losses * w).sum() / w.sum()), rel=1e-5)
    assert shown == pytest.approx(
        [float(losses[w == 6.0].sum()), float((w == 6.0).sum()), float(losses[w >= 1.0].mean())], rel=1e-5
    )


def test_drafts_are_learnt_one_token_further_each() -> None:
    model, (tokens, weights) = small(), batch()
    with torch.no_grad():
        total, shown = train.loss_of(model, tokens, weights, depths=3)
        hidden, rope = model(tokens), model.rope(20, tokens.device)
        embedded = model.model.embed_tokens(tokens)
        first = model.mtp(embedded[:, 1:], hidden[:, :-1], (rope[0][:19], rope[1][:19]))
        second = model.mtp(embedded[:, 2:], first[:, :-1], (rope[0][:18], rope[1][:18]))
        means = [
            float(nats(model, hidden[:, :-1], tokens[:, 1:]).mean()),
            float(nats(model, first[:, :-1], tokens[:, 2:]).mean()),
            float(nats(model, second[:, :-1], tokens[:, 3:]).mean()),
        ]
    assert shown[2:] == pytest.approx(means, rel=1e-4)
    expected = means[0] + train.MTP_WEIGHTS[0] * means[1] + train.MTP_WEIGHTS[1] * means[2]
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_tokens_of_the_context_are_sampled_and_do_not_change_the_drafts() -> None:
    model, (tokens, weights) = small(), batch(0.05)
    weights[:, 15:] = 1.0
    torch.manual_seed(1)
    totals = {round(float(train.loss_of(model, tokens, weights, depths=1)[0].detach()), 6) for _ in range(6)}
    assert len(totals) > 1
    drafts = {round(train.loss_of(model, tokens, weights, depths=2)[1][3], 6) for _ in range(3)}
    assert len(drafts) == 1


def test_three_steps_lower_the_loss() -> None:
    model, (tokens, weights) = small(), batch()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss, _ = train.loss_of(model, tokens, weights)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    assert all(map(math.isfinite, losses))
    assert all(after < before for before, after in pairwise(losses))


def test_pad_fills_with_weightless_tokens() -> None:
    rows = [(np.array([5, 6, 7]), np.array([0.5, 1.0, 2.0])), (np.array([9]), np.array([3.0]))]
    tokens, weights = train.pad(rows)
    assert tokens.tolist() == [[5, 6, 7], [9, 0, 0]]
    assert weights.tolist() == [[0.5, 1.0, 2.0], [3.0, 0.0, 0.0]]
    assert (str(tokens.dtype), str(weights.dtype)) == ("int64", "float32")


def test_a_copy_batch_repeats_each_string_and_weighs_the_repetition() -> None:
    sizes = set()
    for seed in range(40):
        tokens, weights = train.copy_batch(np.random.default_rng(seed), 400, 3)
        size = tokens.shape[1] // 2
        sizes.add(size)
        assert 40 <= size < 130
        assert (tokens[:, :size] == tokens[:, size:]).all()
        assert tokens.min() >= 13, "special tokens and the padding are left out"
        assert tokens.max() < 400
        assert weights.shape == tokens.shape
        assert (weights[:, size + 3 :] == 1.0).all()
        assert (weights[:, : size + 3] == 0.0).all()
        assert len({tuple(row) for row in tokens.tolist()}) == 3
    assert len(sizes) > 10


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    assert [train.learning_rate(0.0, step) for step in (0, 14, 29)] == [1 / 30, 0.5, 1.0]
    assert [train.learning_rate(f, 30) for f in (0.0, 0.2, 0.39)] == [1.0, 1.0, 1.0]
    falling = [train.learning_rate(f, 100) for f in np.linspace(0.41, 1.0, 30)]
    assert all(later < earlier for earlier, later in pairwise(falling))
    assert train.learning_rate(0.7, 100) == pytest.approx(0.515)
    assert train.learning_rate(1.0, 100) == train.learning_rate(1.5, 100) == pytest.approx(0.03)


def test_one_worker_averages_nothing() -> None:
    assert train.average(small(), [1.5, 2.0], 1) == [1.5, 2.0]


def test_a_checkpoint_brings_back_weights_optimiser_and_progress(tmp_path: Path) -> None:
    path, model = tmp_path / "checkpoint.pt", small()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss, _ = train.loss_of(model, *batch())
    torch.autograd.backward(loss)
    optimiser.step()
    done = train.Progress(step=7, tokens=900, seconds=12.5, seed=1_000_064)
    train.save(path, model, optimiser, done)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    other = small(num_hidden_layers=2)
    fresh = torch.optim.AdamW(other.parameters(), lr=1e-2)
    with torch.no_grad():
        other.model.embed_tokens.weight.zero_()
    assert train.resume(path, other, fresh) == done
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    before, after = optimiser.state_dict()["state"], fresh.state_dict()["state"]
    assert torch.equal(before[0]["exp_avg"], after[0]["exp_avg"])


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs main() on a small model with a clock on which each step takes one second; gives the losses."""
    losses: list[float] = []
    ticks = iter(range(10**6))

    def shape(vocab_size: int) -> Shape:
        return Shape(vocab_size=vocab_size, num_hidden_layers=2, intermediate_size=32)

    def loss_of(*arguments: Any, **options: Any) -> Any:
        answer = original(*arguments, **options)
        losses.append(float(answer[0].detach()))
        return answer

    original = train.loss_of
    monkeypatch.setattr(train, "Shape", shape)
    monkeypatch.setattr(train, "loss_of", loss_of)
    monkeypatch.setattr(train, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    monkeypatch.setattr(train, "train_tokenizer", lambda vocab: tokenizer)

    def start(seconds: float, *options: str) -> list[float]:
        arguments = ["--minutes", str(seconds / 60), "--out", str(tmp_path / "out"), *options]
        monkeypatch.setattr("sys.argv", ["train", *arguments])
        losses.clear()
        train.main()
        return list(losses)

    return start


def test_a_run_stops_at_its_budget_saves_and_goes_on(run: Run, tmp_path: Path, tokenizer: Tokenizer) -> None:
    out = tmp_path / "out"
    losses = run(2.5, "--copy-steps", "4")
    assert len(losses) == 3
    assert all(loss < math.log(tokenizer.get_vocab_size()) / 2 for loss in losses), "copying works from the start"
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint.pt", "export", "tokenizer.json"]
    kept = torch.load(out / "checkpoint.pt", weights_only=True)
    step, tokens, seconds, seed = kept["progress"]
    assert (step, seconds, seed) == (3, 3.0, 1_000_000)
    assert tokens % 16 == 0
    assert tokens >= 3 * 16 * 80
    first = kept["model"]["model.embed_tokens.weight"]
    # two more steps; the second of them is the first on episodes, from the generator's own process
    more = run(4.5, "--copy-steps", "4", "--resume")
    assert len(more) == 2
    assert all(map(math.isfinite, more))
    kept = torch.load(out / "checkpoint.pt", weights_only=True)
    step, _, seconds, seed = kept["progress"]
    assert (step, seconds, seed) == (5, 5.0, 1_000_064)
    assert not torch.equal(kept["model"]["model.embed_tokens.weight"], first)
    config = json.loads((out / "export" / "config.json").read_text())
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())


def test_resume_without_a_checkpoint_says_what_to_do(run: Run) -> None:
    with pytest.raises(SystemExit, match=r"--resume: there is no .*checkpoint\.pt; start without --resume"):
        run(1.0, "--resume")
