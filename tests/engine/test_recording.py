"""A recording gives what its code gives for what now lies in its inputs, and refuses what a capture must not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine import recording
from engine.recording import NotCapturable, Recording

CODE: dict[str, Callable[[Tensor], Tensor]] = {
    "products": lambda x: F.linear(x, x[:3]) @ x[:3],
    "views": lambda x: (x.view(2, 4, 6).transpose(0, 1)[1:, :, 2:] * 2).reshape(3, -1),
    "in place on what was made": lambda x: x.clone().mul_(3).add_(x[0]),
    "a window that is filled": lambda x: _window(x),
    "columns that are filled": lambda x: _columns(x),
    "several results that are given": lambda x: torch.sort(x, -1, out=(torch.empty(8, 6), torch.empty(8, 6).long()))[0],
    "several results": lambda x: torch.cat(x.sort(dim=-1).values.split(3, -1)),
    "without an out variant": lambda x: F.silu(x) + F.softplus(x) + x.roll(2, -1) + x.masked_fill(x > 0, -1.0),
    "another type": lambda x: (x.bfloat16() * 2).float() + x.double().sum(-1, keepdim=True).float(),
    "norm": lambda x: F.rms_norm(x, (6,), x[0], 1e-6) + F.layer_norm(x, (6,)),
    "constants": lambda x: x * torch.arange(6) + torch.ones(6) - torch.eye(6)[:1],
    "a constant that is written": lambda x: torch.ones(8, 6).add_(x) + torch.arange(6.0).expand(8, 6),
    "look-up": lambda x: x[(x[:, 0] > 0).long()] + torch.where(x > 0, x, -x),
    "one number for all": lambda x: x / x.abs().amax() + x.mean(),
}


def _window(x: Tensor) -> Tensor:
    window = torch.zeros(10, 6)
    window[1:9] = x
    return window * 2


def _columns(x: Tensor) -> Tensor:
    filled = x.clone()
    filled[:, torch.arange(3)] = x[:, 3:] * 2
    return filled


def values(seed: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CODE)
def test_a_replay_is_the_code_for_new_inputs(name: str) -> None:
    x = values(0)
    with torch.inference_mode():
        recorded = Recording(lambda: CODE[name](x))
        assert torch.equal(recorded.result, CODE[name](values(0)))
        for seed in (1, 2, 1):
            x.copy_(values(seed))
            recorded.replay()
            assert torch.equal(recorded.result, CODE[name](values(seed)))
        assert torch.equal(x, values(1)), "inputs are left alone"


def test_views_and_constants_cost_a_replay_nothing() -> None:
    x = values(0)
    with torch.inference_mode():
        recorded = Recording(lambda: x.view(2, 4, 6)[0].t().unsqueeze(0) * torch.arange(4))
    assert len(recorded._calls) == 1


@pytest.mark.parametrize(
    ("why", "work"),
    [
        ("_local_scalar_dense", lambda x: x * float(x[0, 0])),
        ("nonzero", lambda x: x[(x > 0).nonzero()[:, 0]]),
        ("index", lambda x: x[x > 0]),
        ("equal", lambda x: x * torch.equal(x, x)),
        ("masked_select", lambda x: x.masked_select(x > 0)),
        ("repeat_interleave", lambda x: torch.repeat_interleave(x, (x[:, 0] > 0).long(), dim=0)),
        ("unique", lambda x: torch.unique(x)),
        ("lift_fresh", lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("bernoulli", lambda x: x * torch.bernoulli(torch.full((6,), 0.5))),
    ],
)
def test_what_needs_the_host_or_chance_is_refused(why: str, work: Callable[[Tensor], Any]) -> None:
    x = values(0)
    with torch.inference_mode(), pytest.raises(NotCapturable, match=why):
        Recording(lambda: work(x))


def test_results_that_take_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LIMIT", 4 * 8 * 6 * 4)
    x = values(0)
    with torch.inference_mode():
        Recording(lambda: x * 2 * 3 * 4 * 5)
        with pytest.raises(NotCapturable, match="MiB"):
            Recording(lambda: x * 2 * 3 * 4 * 5 * 6)
