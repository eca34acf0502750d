"""Lloyd-Max codebooks of a standard normal variable for 1 to 4 bits.

Must not: be fitted to data (tables fitted to a prompt lower the squared error and now and then ruin a text).
Invariant: levels are symmetric and ascending, a boundary is the midpoint of its two levels, and every level is the
mean of its cell; `tests/engine/codecs/test_lloyd_max.py` checks that against the normal law.
"""

from __future__ import annotations

import torch
from torch import Tensor

POSITIVE = {
    1: (0.797884560802865,),
    2: (0.452780034636492, 1.510417608499096),
    3: (0.245094178944222, 0.756005281205877, 1.343909278505000, 2.151945704536985),
    4: (
        0.128395029851147,
        0.388048299490290,
        0.656759118532463,
        0.942340456486961,
        1.256231197347176,
        1.618046386021880,
        2.069017226531383,
        2.732589570995159,
    ),
}
"""Max 1960; computed by iterating the two conditions above to a fixed point. A coordinate of a random unit vector in d
dimensions follows a Beta law; from 64 dimensions on the difference costs less than 0.3 % of the distortion."""


def levels(bits: int) -> Tensor:
    """fp32 [2**bits], ascending; for coordinates of variance 1."""
    positive = POSITIVE[bits]
    return torch.tensor([*(-level for level in reversed(positive)), *positive], dtype=torch.float32)


def boundaries(bits: int) -> Tensor:
    """fp32 [2**bits - 1]: code i is for boundaries[i-1] <= x < boundaries[i], so a tie goes up."""
    table = levels(bits)
    return (table[1:] + table[:-1]) / 2
