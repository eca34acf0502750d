"""The rotation that makes every coordinate of a vector look Gaussian: a Hadamard matrix after random signs.

Must not: be applied in less than fp32 (bf16 moves attention's peaks, mlx-lm #1202).
Invariant: `matrix` is orthogonal and depends on (size, seed) alone. The signs matter: without them a constant vector
lands on one axis, and its error is sixty times the promised one.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

SEED = 0x5EED


def rotation(size: int, seed: int = SEED) -> Tensor:
    """fp32 [size, size]; a row vector x is rotated by x @ rotation, and back by y @ rotation.T.

    Sylvester's Hadamard matrix for the power of two in `size`; the odd factor that remains (5 in 80, 3 in 96) is a
    discrete Hartley matrix, which is orthogonal too and mixes all coordinates, so nothing is padded.
    """
    odd = size
    while odd % 2 == 0:
        odd //= 2
    matrix = torch.tensor(_hartley(odd), dtype=torch.float64)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    # torch's generators may change between versions; a prefix that was written yesterday must stay readable
    bits = random.Random(seed).getrandbits(size)
    signs = torch.tensor([1.0 if bits >> i & 1 else -1.0 for i in range(size)], dtype=torch.float64)
    return (signs[:, None] * matrix / math.sqrt(size)).float()


def _hartley(size: int) -> list[list[float]]:
    angle = 2 * math.pi / size
    return [[math.cos(angle * i * j) + math.sin(angle * i * j) for j in range(size)] for i in range(size)]
