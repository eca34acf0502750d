"""Mixture of experts: a router, the experts that its rows choose, and the shared expert.

Must not: let a row's result depend on which other rows are there, or how many.
Invariant: a matrix product sees a multiple of ROWS rows (a row has the same bits in all of those), and what a row's
experts yield is added in the order of their ids, in fp32; the other experts add nothing to it, not even zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import ModelConfig, MoeConfig
from engine.errors import ConfigError
from engine.layers import SwiGlu
from engine.weights import Weights

ROWS = 8
"""Gathered rows are padded to multiples of it: products with fewer rows take other kernels, with other bits."""


class MoE:
    """softmax over all experts, the best few per row; each yields down(silu(gate(x)) * up(x)).

    Source: Qwen3-MoE, Qwen2-MoE (the sigmoid gate of the shared expert).
    """

    def __init__(self, weights: Weights, prefix: str, hidden: int, moe: MoeConfig, dtype: torch.dtype) -> None:
        self.experts, self.chosen, self.normalised = moe.experts, moe.chosen, moe.normalised
        # the router decides between neighbours that bf16 could not tell apart
        self.router = weights.take(f"{prefix}gate.weight", (moe.experts, hidden), torch.float32)
        self.gate_up, self.down = _take_experts(weights, f"{prefix}experts.", hidden, moe, dtype)
        self.gathers = self.gate_up.device.type != "cpu"
        """Whether a step gathers the weights of its rows' experts. A CPU can ask what was chosen for nothing."""
        self.shared: SwiGlu | None = None
        if moe.shared_size:
            self.shared = SwiGlu(weights, f"{prefix}shared_expert.", hidden, moe.shared_size, dtype)
            gate = weights.take(f"{prefix}shared_expert_gate.weight", (1, hidden), torch.float32)
            # one more row of the router: a product with a single column would take another kernel
            self.router = torch.cat((self.router, gate))

    def __call__(self, x: Tensor, real: Tensor | None = None, rows: Sequence[int] | None = None) -> Tensor:
        """x: [rows, hidden]; returns the same shape and type.

        real: bool [rows]; the others are padding: their result is arbitrary, and no expert is read for them alone
        (with one real row in 8 that is most of the weights). rows: those that may be real, where the host knows it
        beforehand: then nothing waits for the device, so that the call can be captured.
        """
        scores = F.linear(x.float(), self.router)
        ids, shares = self.route(scores[:, : self.experts])
        if self.gathers and rows is not None:
            out = self._gathered(x, ids, shares, rows)
        else:
            out = self._grouped(x, ids, shares, real)
        if self.shared is not None:
            out = out + torch.sigmoid(scores[:, self.experts :]) * self.shared(x).float()
        return out.to(x.dtype)

    def _grouped(self, x: Tensor, ids: Tensor, shares: Tensor, real: Tensor | None) -> Tensor:
        """Each chosen expert once, for all rows that have chosen it; the host asks which. fp32 [rows, hidden]."""
        chosen = torch.zeros(x.shape[0], self.experts, dtype=torch.bool, device=x.device).scatter_(1, ids, True)
        if real is not None:
            chosen &= real[:, None]
        share = torch.zeros(x.shape[0], self.experts, device=x.device).scatter_(1, ids, shares)
        out = torch.zeros(x.shape, device=x.device)
        for expert in chosen.any(0).nonzero()[:, 0].tolist():
            at = chosen[:, expert].nonzero()[:, 0]
            out[at] += self._expert(expert, x, at).float() * share[at, expert, None]
        return out

    def _gathered(self, x: Tensor, ids: Tensor, shares: Tensor, rows: Sequence[int]) -> Tensor:
        """One row after the other, its experts' weights gathered: equal products whichever rows there are, and no
        question to the device. fp32 [rows, hidden], zero in other rows."""
        out = torch.zeros(x.shape, device=x.device)
        ids, order = ids.sort(dim=1)
        shares = shares.gather(1, order)
        for row in rows:
            mixed = torch.matmul(self.gate_up[ids[row]], x[row])
            gate, up = mixed.chunk(2, dim=-1)
            made = torch.bmm(self.down[ids[row]], (F.silu(gate) * up).unsqueeze(-1))[..., 0]
            out[row] = (made.float() * shares[row, :, None]).sum(0)
        return out

    def route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """scores: fp32 [rows, experts]. Returns (ids, shares), both [rows, chosen], best first; ties: lowest id."""
        shares, ids = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
        shares, ids = shares[:, : self.chosen], ids[:, : self.chosen]
        if self.normalised:
            shares = shares / shares.sum(-1, keepdim=True)
        return ids, shares

    def _expert(self, expert: int, x: Tensor, at: Tensor) -> Tensor:
        """What one expert makes of the rows `at` of x: [len(at), hidden]."""
        count = at.shape[0]
        padded = -(-count // ROWS) * ROWS
        whole = padded >= x.shape[0]
        rows = x if whole else x[torch.cat((at, at[:1].expand(padded - count)))]
        gate, up = F.linear(rows, self.gate_up[expert]).chunk(2, dim=-1)
        out = F.linear(F.silu(gate) * up, self.down[expert])
        return out[at] if whole else out[:count]


def feed_forward(
    weights: Weights, prefix: str, config: ModelConfig, dtype: torch.dtype, *, sparse: bool
) -> SwiGlu | MoE:
    """The feed-forward part of a layer. Raises ConfigError if the configuration lacks the sizes of its kind."""
    if not sparse:
        if not config.intermediate_size:
            raise ConfigError(f"intermediate_size: is missing from config.json, but {prefix} is dense")
        return SwiGlu(weights, prefix, config.hidden_size, config.intermediate_size, dtype)
    if config.moe is None:
        raise ConfigError(f"num_experts: is 0 or missing, but {prefix} holds experts")
    return MoE(weights, prefix, config.hidden_size, config.moe, dtype)


def _take_experts(
    weights: Weights, prefix: str, hidden: int, moe: MoeConfig, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(gate and up [experts, 2 * size, hidden], down [experts, hidden, size]) from either layout of the files."""
    size = moe.intermediate_size
    wide, narrow = (moe.experts, 2 * size, hidden), (moe.experts, hidden, size)
    if weights.has(f"{prefix}gate_up_proj") or weights.has(f"{prefix}down_proj"):
        return weights.take(f"{prefix}gate_up_proj", wide, dtype), weights.take(f"{prefix}down_proj", narrow, dtype)
    gate_up = torch.empty(wide, dtype=dtype, device=weights.device)
    down = torch.empty(narrow, dtype=dtype, device=weights.device)
    for expert in range(moe.experts):
        gate_up[expert, :size] = weights.take(f"{prefix}{expert}.gate_proj.weight", (size, hidden), dtype)
        gate_up[expert, size:] = weights.take(f"{prefix}{expert}.up_proj.weight", (size, hidden), dtype)
        down[expert] = weights.take(f"{prefix}{expert}.down_proj.weight", (hidden, size), dtype)
    return gate_up, down
