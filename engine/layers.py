"""The small layers: products with weights, norms, rotary embedding, SwiGLU.

Must not: keep state, or do anything whose result for one row depends on another row.
Invariant: rows in, rows out; row i of the output is a function of row i of the input alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import ModelConfig, YarnConfig
from engine.weights import Weights


class Linear:
    """x @ weight.T without bias; x: [..., in] gives [..., out].

    On a CPU the weight is kept in oneDNN's blocked layout alone, packed once: at 8 fp32 rows that halves the time of a
    product, at one row it takes a quarter. The operators are private to torch, so where one is missing or refuses (bf16
    without AVX-512) the plain product is used. Either way one kernel serves all rows of a call alike.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.packed = False
        if weight.device.type == "cpu":
            try:
                packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR)
                _packed_product(weight.new_zeros(1, weight.shape[1]), packed)
            except (RuntimeError, AttributeError):
                return
            self._weight, self.packed = packed, True

    def __call__(self, x: Tensor) -> Tensor:
        return _packed_product(x, self._weight) if self.packed else F.linear(x, self._weight)


PACKED_FOR = 8
"""Rows that the packed layout is chosen for; any number works."""


def _packed_product(x: Tensor, weight: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


class Norm:
    """RMSNorm in fp32. zero_centred: the stored weight is w and (1 + w) is applied, as all norms of Qwen3-Next and 3.5
    do, except the one inside the linear layers; Qwen3 applies w."""

    def __init__(self, weight: Tensor, eps: float, *, zero_centred: bool = True) -> None:
        self.weight = weight.float() + 1.0 if zero_centred else weight.float()
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """x: [..., size]; returns the same shape and dtype, in memory of its own."""
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        return (wide * scale).mul_(self.weight).to(x.dtype)

    @classmethod
    def of_heads(cls, parts: Sequence[tuple[Norm, int]]) -> Norm:
        """Norms of one size as one, for x: [..., heads, size]: each with the number of heads that it is for."""
        joined = cls.__new__(cls)
        joined.eps = parts[0][0].eps
        joined.weight = torch.cat([norm.weight.expand(heads, -1) for norm, heads in parts])
        return joined


Angles = tuple[Tensor, Tensor]
"""cos and sin, see `Rope.at`."""


class Rope:
    """Rotary position embedding of the first `rotary_dim` dims of a head, in the two-halves layout."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        dims = torch.arange(0, config.rotary_dim, 2, device=device, dtype=torch.float32)
        self.inverse = config.rope_theta ** (-dims / config.rotary_dim)
        self.dim, self.scale = config.rotary_dim, 1.0
        if config.yarn is not None:
            self.inverse, self.scale = _stretched(self.inverse, config.rope_theta, config.yarn)

    def angles(self, start: int, count: int) -> Angles:
        """`at` of the positions start.."""
        return self.at(torch.arange(start, start + count, device=self.inverse.device))

    def at(self, positions: Tensor) -> Angles:
        """cos and sin [n, 1, rotary_dim] fp32 of n positions (dim 1 broadcasts over heads), the first half of the sines
        negated: what a half is turned by is the other half, once with each sign."""
        half = (positions.float()[:, None] * self.inverse)[:, None]
        cos, sin = half.cos() * self.scale, half.sin() * self.scale
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def rotate(self, x: Tensor, angles: Angles) -> Tensor:
        """x: [rows, heads, head_dim], in place."""
        cos, sin = angles
        part = x[..., : self.dim]
        turned = part.float()
        part.copy_((turned * cos).add_(turned.roll(self.dim // 2, -1).mul_(sin)))
        return x


def _stretched(inverse: Tensor, theta: float, yarn: YarnConfig) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2309.00071): dims that turn often keep their speed, slow ones are slowed down by the factor.

    Returns the new inverse frequencies and the factor on cos and sin.
    """
    pairs = inverse.shape[0]

    def dim_of(rotations: float) -> float:
        return pairs * math.log(yarn.original / (rotations * 2 * math.pi)) / math.log(theta)

    low, high = dim_of(yarn.fast), dim_of(yarn.slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    ramp = (torch.arange(pairs, device=inverse.device, dtype=torch.float32) - low) / max(high - low, 0.001)
    slowed = ramp.clamp(0, 1)
    scale = yarn.attention or 0.1 * math.log(max(yarn.factor, 1.0)) + 1.0
    return inverse / yarn.factor * slowed + inverse * (1 - slowed), scale


class SwiGlu:
    """down(silu(gate(x)) * up(x)); gate and up are one matrix product."""

    def __init__(self, weights: Weights, prefix: str, hidden: int, size: int, dtype: torch.dtype) -> None:
        wide = (size, hidden)
        gate = weights.take(f"{prefix}gate_proj.weight", wide, dtype)
        up = weights.take(f"{prefix}up_proj.weight", wide, dtype)
        self.gate_up = Linear(torch.cat((gate, up)))
        self.down = Linear(weights.take(f"{prefix}down_proj.weight", wide[::-1], dtype))

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
