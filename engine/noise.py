"""Gumbel noise that is a function of seed, absolute position and token alone.

Must not: keep generator state, or use an operation whose bits differ between devices.
Invariant: a token's noise does not depend on the vocabulary, the batch or the device it is computed on.
Hash: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_Words = npt.NDArray[np.uint64]
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
# ln2 with its low 32 bits cleared, so that (exponent * high) is exact, and the rest of it
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


def gumbel(seed: int, position: int, vocab: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard Gumbel noise for every token at one absolute position: float64 [vocab], the same bits on any
    device."""
    keys = keys_at(seed, [position], torch.device(device))
    return gumbel_at(keys, torch.arange(vocab, device=device).unsqueeze(0))[0]


def keys_at(seed: int, positions: Sequence[int], device: torch.device) -> Tensor:
    """One SplitMix64 starting state per position: int64 [n, 1]."""
    root = _mix(np.array([seed & _MASK], np.uint64) + _GAMMA)
    steps = np.fromiter(positions, np.uint64, len(positions)) + np.uint64(1)
    keys = _mix(root ^ _mix(steps * _GAMMA))
    return torch.from_numpy(keys.view(np.int64)).unsqueeze(1).to(device, non_blocking=True)


def _mix(values: _Words) -> _Words:
    """SplitMix64's output function on the host, modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * _MIX1
    values = (values ^ (values >> np.uint64(27))) * _MIX2
    return values ^ (values >> np.uint64(31))


def _signed(word: np.uint64) -> int:
    """The same 64 bits as torch's int64 reads them."""
    return int(word.astype(np.int64))


def gumbel_at(keys: Tensor, ids: Tensor) -> Tensor:
    """-log(-log U) with U from SplitMix64 at counter `id` of each row's stream: float64 [n, C]."""
    state = (ids + 1) * _signed(_GAMMA) + keys
    state = (state ^ _shift(state, 30)) * _signed(_MIX1)
    state = (state ^ _shift(state, 27)) * _signed(_MIX2)
    state = state ^ _shift(state, 31)
    uniform = (_shift(state, 12).double() + 0.5) * 2.0**-52  # exact, never 0 or 1
    return -_log(-_log(uniform))


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _log(value: Tensor) -> Tensor:
    """Natural logarithm of positive normal float64, relative error below 1e-13.

    Made of operations that IEEE 754 defines exactly, so that CPU and GPU give the same bits; the devices' own
    logarithms differ in the last place. log(2^e m) = e ln 2 + 2 artanh((m-1)/(m+1)), m in [sqrt(1/2), sqrt
    2).
    """
    bits = value.view(torch.int64)
    exponent = (bits - _SQRT_HALF_BITS) >> 52
    mantissa = (bits - (exponent << 52)).view(torch.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    series = torch.full_like(square, 1.0 / 19.0)
    for divisor in (17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        series = series.mul_(square).add_(1.0 / divisor)
    power = exponent.double()
    return power * _LN2_HIGH + (power * _LN2_LOW + ratio * 2.0 * series)
