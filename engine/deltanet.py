"""Gated DeltaNet: chunked for prefill, row by row for decode and verify, with what a rewind needs.

Must not: update the committed state while rows are provisional.
Invariant: folding the ingredients (k, u, g) of accepted rows does the same operations in the same order as decoding
those rows one at a time, so the folded state has the same bits. Source: Yang et al. 2412.06464; keeping ingredients
instead of one state per token: ReplaySSM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import ModelConfig
from engine.layers import Linear, Norm
from engine.weights import Weights

INNER = 64
"""Tokens per inner chunk of a prefill; inner edges lie at absolute multiples of it."""


@dataclass(slots=True)
class LinearState:
    """memory: fp32 [value_heads, key_dim, value_dim]; conv: the last inputs of the convolution [kernel-1, channels].

    Of all linear layers of a sequence: both with the layers as first dimension.
    """

    memory: Tensor
    conv: Tensor

    def clone(self) -> LinearState:
        return LinearState(self.memory.clone(), self.conv.clone())

    def layers(self) -> list[LinearState]:
        """Views, one per layer."""
        return [LinearState(*parts) for parts in zip(self.memory.unbind(0), self.conv.unbind(0), strict=True)]

    @classmethod
    def stacked(cls, layers: Sequence[LinearState], device: torch.device) -> LinearState:
        """One state of all layers, of which there may be none."""
        if not layers:
            return cls(torch.zeros(0, device=device), torch.zeros(0, device=device))
        return cls(torch.stack([each.memory for each in layers]), torch.stack([each.conv for each in layers]))

    def fold(self, parts: Ingredients) -> None:
        """Applies rows to the state in plain decode's order of operations; all layers at once, or one."""
        memory = self.memory
        for i in range(parts.count):
            memory = memory * parts.decay[..., i, :, None, None]
            memory.add_(parts.k[..., i, :, :, None] * parts.u[..., i, :, None, :])
        self.memory = memory
        self.conv = _tail(self.conv, parts.conv)


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What rows add to the state: conv [n, channels], k [n, heads, dk], u [n, heads, dv], decay e^g [n, heads].

    Of all linear layers: with the layers as first dimension.
    """

    conv: Tensor
    k: Tensor
    u: Tensor
    decay: Tensor

    @classmethod
    def joined(cls, blocks: Sequence[Ingredients]) -> Ingredients:
        """One layer's rows of several blocks, one behind the other."""
        conv, k, u, decay = (
            torch.cat([getattr(each, name) for each in blocks]) for name in ("conv", "k", "u", "decay")
        )
        return cls(conv, k, u, decay)

    @property
    def count(self) -> int:
        """Rows."""
        return self.conv.shape[-2]

    def rows(self, start: int, end: int) -> Ingredients:
        return Ingredients(
            self.conv[..., start:end, :],
            self.k[..., start:end, :, :],
            self.u[..., start:end, :, :],
            self.decay[..., start:end, :],
        )

    def clone(self) -> Ingredients:
        return Ingredients(self.conv.clone(), self.k.clone(), self.u.clone(), self.decay.clone())


class DeltaNet:
    """One linear-attention layer."""

    def __init__(self, weights: Weights, prefix: str, config: ModelConfig, dtype: torch.dtype) -> None:
        hidden, heads = config.hidden_size, config.linear_value_heads
        self.heads, self.key_heads = heads, config.linear_key_heads
        self.dk, self.dv = config.linear_key_dim, config.linear_value_dim
        self.keys, self.values = self.key_heads * self.dk, heads * self.dv
        self.channels, self.kernel = config.conv_channels, config.conv_kernel
        sizes = {"qkv": self.channels, "z": self.values, "b": heads, "a": heads}
        if weights.has(f"{prefix}in_proj_qkvz.weight") or weights.has(f"{prefix}in_proj_ba.weight"):
            project = self._take_grouped(weights, prefix, hidden, dtype)
        else:
            project = torch.cat(
                [weights.take(f"{prefix}in_proj_{name}.weight", (n, hidden), dtype) for name, n in sizes.items()]
            )
        self.project = Linear(project)
        self.splits = list(sizes.values())
        conv = weights.take(f"{prefix}conv1d.weight", (self.channels, 1, self.kernel), torch.float32)
        self.taps = conv[:, 0].T.contiguous()
        self.rate = -weights.take(f"{prefix}A_log", (heads,), torch.float32).exp()
        self.dt_bias = weights.take(f"{prefix}dt_bias", (heads,), torch.float32)
        norm = weights.take(f"{prefix}norm.weight", (self.dv,), torch.float32)
        self.norm = Norm(norm, config.rms_norm_eps, zero_centred=False)
        self.out = Linear(weights.take(f"{prefix}out_proj.weight", (hidden, self.values), dtype))

    def _take_grouped(self, weights: Weights, prefix: str, hidden: int, dtype: torch.dtype) -> Tensor:
        """Qwen3-Next's layout, [q, k, v, z] and [b, a] per key head, in the order [q, k, v, z, b, a] of all heads."""
        groups, values = self.heads // self.key_heads, self.values // self.key_heads
        parts: list[Tensor] = []
        for name, sizes in (("qkvz", [self.dk, self.dk, values, values]), ("ba", [groups, groups])):
            fused = weights.take(f"{prefix}in_proj_{name}.weight", (self.key_heads * sum(sizes), hidden), dtype)
            per_head = fused.view(self.key_heads, sum(sizes), hidden)
            parts += [part.reshape(-1, hidden) for part in torch.split(per_head, sizes, dim=1)]
        return torch.cat(parts)

    def new_state(self, device: torch.device) -> LinearState:
        return LinearState(
            torch.zeros(self.heads, self.dk, self.dv, device=device),
            torch.zeros(self.kernel - 1, self.channels, device=device),
        )

    def decode(self, x: Tensor, states: Sequence[LinearState], deep: int) -> tuple[Tensor, Ingredients]:
        """x: [rows, hidden], made of one equally tall block of rows per state; the recurrence goes over the first
        `deep` rows of each, what becomes of the others is arbitrary.

        Leaves the states alone; returns [rows, hidden] and what those rows would contribute, `deep` per block.
        """
        height = x.shape[0] // len(states)
        mixed, z, b, a = self._project(x)
        out = torch.zeros(x.shape[0], self.heads, self.dv, device=x.device)
        parts = []
        for index, state in enumerate(states):
            at = slice(index * height, (index + 1) * height)
            out[at.start : at.start + deep], part = self._decode_block(mixed[at], b[at], a[at], state, deep)
            parts.append(part)
        return self._outputs(out, z, x.dtype), parts[0] if len(parts) == 1 else Ingredients.joined(parts)

    def _decode_block(
        self, mixed: Tensor, b: Tensor, a: Tensor, state: LinearState, deep: int
    ) -> tuple[Tensor, Ingredients]:
        """The recurrence over one block's first rows: outputs [deep, heads, dv] and ingredients."""
        # all rows, because some functions have other bits in other shapes
        q, k, v, beta, g = self._inputs(torch.cat((state.conv, mixed)), b, a)
        decay = g.exp()
        memory = state.memory
        outs, contributions = [], []
        for i in range(deep):
            memory = memory.mul_(decay[i, :, None, None]) if i else memory * decay[0, :, None, None]
            recalled = torch.bmm(k[i, :, None], memory)[:, 0]
            u = beta[i, :, None] * (v[i] - recalled)
            memory.add_(k[i, :, :, None] * u[:, None])
            outs.append(torch.bmm(q[i, :, None], memory)[:, 0])
            contributions.append(u)
        return torch.stack(outs), Ingredients(mixed[:deep], k[:deep], torch.stack(contributions), decay[:deep])

    def prefill(
        self, x: Tensor, state: LinearState, position: int, real: slice, edges: Sequence[int] = ()
    ) -> tuple[Tensor, LinearState, list[LinearState]]:
        """x: [rows, hidden] at absolute positions position.. (a multiple of INNER); rows outside `real` are padding.

        Leaves `state` alone; returns [rows, hidden], the state at the end of `real`, and the states before each of
        `edges`, ascending row indices inside `real` that are multiples of INNER.
        """
        rows = x.shape[0]
        mixed, z, b, a = self._project(x)
        window = torch.zeros(rows + self.kernel - 1, self.channels, device=mixed.device)
        # the kept inputs stand directly before the first real row, wherever padding has put it
        window[real.start : real.start + self.kernel - 1] = state.conv
        window[real.start + self.kernel - 1 : real.stop + self.kernel - 1] = mixed[real]
        q, k, v, beta, g = self._inputs(window, b, a)
        mask = torch.zeros(rows, 1, device=x.device)
        mask[real] = 1.0
        beta, g = beta * mask, g * mask
        outs, kept = [], []
        memory = state.memory
        for start in range(0, rows, INNER):
            if start in edges:
                kept.append(LinearState(memory, _tail(state.conv, mixed[real.start : start])))
            at = slice(start, start + INNER)
            qs, ks, vs = (y[at].transpose(0, 1) for y in (q, k, v))
            out, memory = chunk(qs, ks, vs, beta[at].T, g[at].T, memory)
            outs.append(out.transpose(0, 1))
        after = LinearState(memory, _tail(state.conv, mixed[real]))
        return self._outputs(torch.cat(outs), z, x.dtype), after, kept

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs of the convolution, output gate z, and what beta and decay are made of; fp32, rows first."""
        mixed, z, b, a = torch.split(self.project(x).float(), self.splits, dim=-1)
        return mixed, z, b, a

    def _inputs(self, window: Tensor, b: Tensor, a: Tensor) -> tuple[Tensor, ...]:
        """Convolution and activations of one sequence's rows: (q, k, v, beta, g), fp32, rows first.

        window: [rows + kernel - 1, channels], the kept inputs before the rows' own.
        """
        rows = b.shape[0]
        mixed_by_time = window[:rows] * self.taps[0]
        for tap in range(1, self.kernel):
            mixed_by_time.add_(window[tap : tap + rows] * self.taps[tap])
        qk, v = torch.split(F.silu(mixed_by_time), [2 * self.keys, self.values], dim=-1)
        qk = _unit(qk.reshape(rows, 2 * self.key_heads, self.dk))
        q, k = qk[:, : self.key_heads] * self.dk**-0.5, qk[:, self.key_heads :]
        groups = self.heads // self.key_heads
        if groups > 1:
            wide = (rows, self.key_heads, groups, self.dk)
            q, k = (x.unsqueeze(2).expand(wide).reshape(rows, self.heads, self.dk) for x in (q, k))
        beta = torch.sigmoid(b)
        g = self.rate * F.softplus(a + self.dt_bias)
        return q, k, v.reshape(rows, self.heads, self.dv), beta, g

    def _outputs(self, out: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
        rows = out.shape[0]
        gated = self.norm(out) * F.silu(z.reshape(rows, self.heads, self.dv))
        return self.out(gated.reshape(rows, -1).to(dtype))


def _tail(conv: Tensor, mixed: Tensor) -> Tensor:
    """The last inputs of the convolution once `mixed` [.., n, channels] has followed `conv`."""
    kept = conv.shape[-2]
    return torch.cat((conv, mixed), -2)[..., -kept:, :].clone() if kept else conv


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def chunk(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One inner chunk of the gated delta rule. q, k: [heads, n, dk]; v: [heads, n, dv]; beta, g: [heads, n]; memory:
    [heads, dk, dv]. Returns (out [heads, n, dv], new memory).

    With cumulated log decay c: (I + A) U = beta (V - e^c K S), A_ij = beta_i e^(c_i - c_j) k_i.k_j for j < i.
    """
    total = g.cumsum(-1)
    ratio = (total.unsqueeze(-1) - total.unsqueeze(-2)).tril().exp().tril()
    beta = beta.unsqueeze(-1)
    growth = total.exp().unsqueeze(-1)
    inner = (beta * (k @ k.transpose(1, 2)) * ratio).tril(-1)
    eye = torch.eye(k.shape[1], device=k.device)
    wanted = beta * (v - growth * (k @ memory))
    u = torch.linalg.solve_triangular(eye + inner, wanted, upper=False, unitriangular=True)
    out = growth * (q @ memory) + ((q @ k.transpose(1, 2)) * ratio) @ u
    last = total[:, -1:]
    kept = k * (last - total).exp().unsqueeze(-1)
    return out, memory * last.exp().unsqueeze(-1) + kept.transpose(1, 2) @ u
