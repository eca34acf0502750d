"""Do kernels compute what torch operators compute, and has a row the same bits in any company? Asked at start-up.

Must not: use a sequence of the engine's, or leave kernels on after a difference.
Invariant: every codec is checked at the model's own sizes, in the shapes of a decode step and of a prefill chunk, so
that nothing is compiled, and nothing fails, later on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.code_attention import read_by_operators
from engine.codecs.spec import FLUSH
from engine.compressed import CompressedCache
from engine.model import Model
from engine.softmax import Parts, row_positions, spread_queries

TOLERANCE = 5e-4
"""Most distance of a row's result from that of operators, as a share of its length. Products of about 16 bits leave
some 2e-5, a wrong coordinate or scale some 1e-1."""
TOKENS = 4 * FLUSH + 5
"""Of the context: it ends behind a tile, so that the checked rows have edges to see and to miss."""


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """off: the largest distance found, as a share of a row's length; equal: rows have their bits in any company."""

    codec: str
    off: float
    equal: bool

    @property
    def sound(self) -> bool:
        return self.equal and self.off <= TOLERANCE


@torch.inference_mode()
def check_kernels(model: Model, codecs: Sequence[str]) -> list[KernelCheck]:
    """Switches the model's kernels off where they are not sound; what was found out until then."""
    found: list[KernelCheck] = []
    for codec in codecs:
        check = check_codec(model, codec)
        if check is None:
            return found  # a launch has failed, and has switched them off
        found.append(check)
        if not check.sound:
            model.kernels.switch_off(
                f"with {codec} a row depends on its neighbours"
                if not check.equal
                else f"with {codec} a row differs by {check.off:.1e} of its length, {TOLERANCE:g} are allowed"
            )
            return found
    return found


def check_codec(model: Model, codec: str) -> KernelCheck | None:
    """None: kernels are off."""
    generator = torch.Generator().manual_seed(0)
    config = model.config

    def draw(rows: int, heads: int) -> Tensor:
        drawn = torch.randn(rows, heads, config.head_dim, generator=generator)
        return drawn.to(model.device, model.dtype)

    cache, short = (CompressedCache(model.layout(codec)) for _ in range(2))
    rows = (
        draw(TOKENS + model.prefill_rows, config.num_kv_heads),
        draw(TOKENS + model.prefill_rows, config.num_kv_heads),
    )
    for each, end in ((cache, TOKENS + FLUSH), (short, TOKENS)):
        for start in range(0, end, FLUSH):
            stop = min(start + FLUSH, end)
            each.write(start, rows[0][start:stop], rows[1][start:stop])
            each.settle(stop)
    worst = 0.0
    for height in (model.rows, model.prefill_rows):
        q = draw(height, config.num_heads)
        # no row may stand so far back that it has to see what is not coded yet
        position = max(min(TOKENS, cache.pending + FLUSH - height), 0)
        read = _read(q, cache, position)
        if read is None:
            return None
        ours, theirs = (
            _by_head(parts, height, config.num_heads) for parts in (read, _read_by_operators(q, cache, position))
        )
        off = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-30)
        # NaN is no small distance
        worst = max(worst, float(off.nan_to_num(torch.inf).max()))
    return KernelCheck(codec, worst, _same_bits(model, cache, short, draw))


def _same_bits(model: Model, cache: CompressedCache, short: CompressedCache, draw: object) -> bool:
    """The first row of a block, and the same row at every other place, beside others, and before further codes."""
    assert callable(draw)
    heads = model.config.num_heads
    row, wanted = draw(1, heads)[0], None
    for index in range(model.rows):
        for each in (short, cache):
            q = draw(model.rows, heads)
            q[index] = row
            parts = _read(q, each, TOKENS - index)
            if parts is None:
                return False
            bits = _by_head(parts, model.rows, heads)[index]
            wanted = bits if wanted is None else wanted
            if not torch.equal(bits, wanted):
                return False
    return True


def _inputs(q: Tensor, cache: CompressedCache, position: int) -> tuple[Tensor, Tensor, Tensor]:
    query = spread_queries(q, cache.heads)
    at = row_positions(position, q.shape[0], query.shape[1] // q.shape[0], q.device)
    return query, (query * cache.mean[:, None]).sum(-1, keepdim=True), cache.edges(at)


def _read(q: Tensor, cache: CompressedCache, position: int) -> Parts | None:
    return cache.layout.kernels.read(*_inputs(q, cache, position), cache)


def _read_by_operators(q: Tensor, cache: CompressedCache, position: int) -> Parts:
    return read_by_operators(*_inputs(q, cache, position), cache, 1, position)


def _by_head(parts: Parts, rows: int, heads: int) -> Tensor:
    return parts.output(rows).view(rows, heads, -1)
