"""Read-back: what was stored of a vector, read as readers read it, must still be that vector.

Must not: use what the writer knows about its own work (its cosine, its scale before rounding).
Invariant: a scale that makes <x, x'> = |x|^2 (engine.codecs.quantiser) leaves nothing for chance: on a sound codec the
ratio <x, x'> / |x|^2 is 1 up to the rounding of the scale to fp16, half a thousandth, and in 8 bits up to that of the
coordinates. So a rotation that one side skips, a scale that is applied twice and packing that readers see otherwise
all show in the first block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.codecs.quantiser import Quantiser, Scratch

HEAD_OFF = 0.005
"""Most distance of the ratio from 1 over all vectors of a head in a block. Measured on sound codecs: below 0.0005."""
VECTOR_OFF = 0.06
"""The same of one vector. 8 bits may err by half a step in each of d coordinates, sqrt(d) / 254 together at most."""
SMALLEST = 2.0**-14
"""Scales below it have lost bits in fp16 (vectors of next to nothing); their ratio says nothing."""


def read_back(codec: Quantiser, codes: Tensor, scale: Tensor, written: Tensor, scratch: Scratch) -> Tensor:
    """codes: [heads, rows, bytes] and scale: fp16 [heads, rows], as stored; written: fp32 [rows, heads, d].

    Returns fp32 [2], on the device: the largest distance of the ratio from 1, of a head and of a vector. A vector with
    a number in it that is none is left out, `engine.health.Tally` counts those.
    """
    scale = scale.float()
    read = codec.decode(codes.contiguous(), scratch)
    turned = torch.matmul(written.transpose(0, 1), codec.rotate)
    energy, product = torch.linalg.vecdot(turned, turned), torch.linalg.vecdot(turned, read) * scale
    # what is small is judged by what went in: a scale that is lost although the vector was not small is no rounding
    judged = (energy > least_energy(codec.bits, turned.shape[-1])) & (energy < torch.inf) & (scale < torch.inf)
    energy, off = (x.masked_fill(~judged, 0.0) for x in (energy, product - energy))
    heads = off.sum(-1).abs() / energy.sum(-1).clamp_min(1e-30)
    vectors = off.abs() / energy.clamp_min(1e-30)
    return torch.stack((heads.max(), vectors.max()))


def least_energy(bits: int, dim: int) -> float:
    """|x|^2 from which on a sound codec's scale is above SMALLEST: it is at least |x| / sqrt(d), in 8 bits a 127th of
    that."""
    return dim * (SMALLEST * (127 if bits == 8 else 1)) ** 2
