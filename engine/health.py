"""What a compressed cache says about itself: how well vectors were coded, how much noise scores carry, what is broken.

Must not: wait for the device before somebody asks, or cost more than a few sums per coded block.
Invariant: only committed rows count, each once.
Expected values and limits: a unit vector's <y, c> is 1 - D of its codebook; score noise sigma costs an attention KL of
about sigma^2 / 2, whatever the context's length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.codecs.quantiser import Encoded

LEAST_COSINE = {2: 0.87, 3: 0.955, 4: 0.985, 8: 0.998}
"""Mean below it: the rotation has failed, or keys are biased beyond what centring takes away."""
NOISY, TOO_NOISY = 0.3, 0.5
"""Score noise to warn of, and to keep a layer in 8 bits for (KL 0.045 and 0.125)."""


@dataclass(frozen=True, slots=True)
class SideHealth:
    """Keys or values of one layer. cosine: mean and lowest <y, c>; entropy: bits per code, of at most `bits`; None for
    8 bits. broken, empty: vectors whose scale is not finite, or zero."""

    bits: int
    vectors: int
    cosine: float
    lowest: float
    entropy: float | None
    broken: int
    empty: int


@dataclass(frozen=True, slots=True)
class LayerHealth:
    """sigma: predicted standard deviation of a score's error, None before a query has been seen."""

    layer: int
    codec: str
    keys: SideHealth
    values: SideHealth
    sigma: float | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong, one sentence each."""
        found = []
        for name, side in (("keys", self.keys), ("values", self.values)):
            if side.broken:
                found.append(f"layer {self.layer}: {side.broken} {name} are not finite")
            elif side.vectors and not side.cosine >= LEAST_COSINE[side.bits]:
                found.append(f"layer {self.layer}: {name} are coded badly, cosine {side.cosine:.3f}")
        if self.sigma is not None and self.sigma > NOISY:
            remedy = "; keep its keys in 8 bits" if self.sigma > TOO_NOISY else ""
            found.append(f"layer {self.layer}: score noise {self.sigma:.2f}{remedy}")
        return tuple(found)


@dataclass(slots=True)
class Tally:
    """Running sums over one side of one cache, on the device."""

    bits: int
    vectors: int = 0
    sums: Tensor | None = None
    """fp32 [4]: cosines, energies, broken, empty."""
    lowest: Tensor | None = None
    symbols: Tensor | None = None

    def add(self, energy: Tensor, encoded: Encoded) -> None:
        """energy: |x|^2 of each vector that was coded."""
        sound = encoded.scale.isfinite()
        cosine = encoded.cosine.masked_fill(~sound, 1.0)
        parts = (cosine.sum(), energy.masked_fill(~sound, 0.0).sum(), (~sound).sum(), (encoded.scale == 0).sum())
        sums = torch.stack([part.float() for part in parts])
        self.sums = sums if self.sums is None else self.sums + sums
        self.lowest = cosine.min() if self.lowest is None else torch.minimum(self.lowest, cosine.min())
        self.vectors += encoded.scale.numel()
        if self.bits in (2, 4):
            # not bincount: on CUDA it waits for the device
            packed = encoded.codes.flatten().int()
            counts = torch.zeros(256, dtype=torch.int64, device=packed.device)
            counts.index_add_(0, packed, torch.ones_like(packed, dtype=torch.int64))
            self.symbols = counts if self.symbols is None else self.symbols + counts

    def health(self) -> SideHealth:
        if self.sums is None or self.lowest is None:
            return SideHealth(self.bits, 0, 1.0, 1.0, None, 0, 0)
        cosine, _, broken, empty = self.sums.tolist()
        return SideHealth(
            self.bits, self.vectors, cosine / self.vectors, float(self.lowest), self._entropy(), int(broken), int(empty)
        )

    @property
    def energy(self) -> float:
        """Mean |x|^2."""
        return float(self.sums[1]) / self.vectors if self.sums is not None else 0.0

    def _entropy(self) -> float | None:
        """Of single codes, from the counts of packed bytes."""
        if self.symbols is None:
            return None
        counts = torch.zeros(2**self.bits, dtype=torch.float64)
        values = torch.arange(256)
        for shift in range(0, 8, self.bits):
            counts.index_add_(0, values >> shift & 2**self.bits - 1, self.symbols.cpu().double())
        share = counts / counts.sum()
        return float(-(share * share.clamp_min(1e-30).log2()).sum())


@dataclass(slots=True)
class CacheTally:
    """Of one cache. queries: sum of |q|^2 (scaled by 1/sqrt(d), as scores use them) and how many there were."""

    keys: Tally
    values: Tally
    query_energy: list[Tensor] = field(default_factory=list)
    query_count: int = 0
    wants_query: bool = False
    """A block was coded since a query was last looked at: one step in FLUSH pays for the sum."""

    def see_query(self, query: Tensor) -> None:
        """query: [kv_heads, rows, d] as it meets the keys."""
        self.query_energy = [torch.stack([*self.query_energy, query.square().sum()]).sum()]
        self.query_count += query.shape[0] * query.shape[1]
        self.wants_query = False

    def health(self, layer: int, codec: str, dim: int) -> LayerHealth:
        keys = self.keys.health()
        sigma = None
        if self.query_count and keys.vectors:
            loss = 1 / max(keys.cosine, 1e-6) ** (2 if keys.bits == 8 else 1) - 1
            query = float(self.query_energy[0]) / self.query_count
            sigma = math.sqrt(max(query * self.keys.energy * loss / dim, 0.0))
        return LayerHealth(layer, codec, keys, self.values.health(), sigma)
