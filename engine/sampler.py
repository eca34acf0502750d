"""Choosing tokens from logits: greedy, or Gumbel-max with noise that depends on seed, position and token
alone.

Must not: keep generator state, look at other rows, or touch the device more than once per call to read
results.
Invariant: a row's outcome is a function of (logits, position, params) only. Whoever asks, plain decoding, a
verify step or a drafter, in whatever batch, gets the same token for the same logits at the same absolute
position. For that every reduction here is a comparison, an exact integer sum or a fixed-order tree, never a
float sum whose order may depend on the batch.

Sources: Gumbel-max with noise shared by drafter and target: Daliri, Musco, Suresh, "Coupling without
Communication and Drafter-Invariant Speculative Decoding" (arXiv 2408.07978). Hash: SplitMix64 (Steele, Lea,
Flood, OOPSLA 2014). Top-p: Holtzman et al., arXiv 1904.09751. Min-p: Nguyen et al., arXiv 2407.01082.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
# ln2 with its low 32 bits cleared, so that (exponent * high) is exact, and the rest of it
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ID_MASK = (1 << 32) - 1
_MASS_UNIT = float(1 << 40)  # probability mass is summed in these: exact in int64 up to 2^22 tokens


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. Raises ValueError that names the field.

    temperature 0 is greedy and ignores the rest. Filters apply after the temperature in the order top_k (0 =
    off), top_p (1 = off; relative to what top_k left), min_p (0 = off; relative to the most likely token).
    seed: 64 bits.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
                raise ValueError(f"{name}: must be a finite number, not {value!r:.40}")
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name}: must be an integer, not {value!r}")
        if self.temperature < 0:
            raise ValueError(f"temperature: must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k: must be 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p: must be between 0 and 1, not {self.min_p}")
        if not -(1 << 63) <= self.seed <= _MASK:
            raise ValueError(f"seed: must fit in 64 bits, not {self.seed}")

    @property
    def greedy(self) -> bool:
        """True if the most likely token is always taken."""
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What `choose` took, one entry per row.

    The numbers describe the model's own distribution over the valid tokens: temperature 1, no filters,
    natural logarithms. logprob: of the chosen token; margin: best minus second-best logit (0 if there is no
    second one). finite: no NaN or infinity among the valid logits; if false, such tokens were left out (and
    id 0 was chosen if nothing was left), and the numbers are about the rest.
    """

    ids: list[int]
    logprob: list[float]
    top1_prob: list[float]
    margin: list[float]
    entropy: list[float]
    finite: list[bool]


def gumbel(seed: int, position: int, vocab: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard Gumbel noise for every token at one absolute position: float64 [vocab], the same bits on any
    device."""
    keys = _keys(seed, [position], torch.device(device))
    return _gumbel(keys, torch.arange(vocab, device=device).unsqueeze(0))[0]


def choose(logits: Tensor, positions: Sequence[int], params: SamplingParams, valid_tokens: int) -> Choice:
    """Takes one token per row; waits for the device once.

    logits: float32 [n, V]; positions: n absolute positions of the tokens to be chosen; ids from valid_tokens
    on (a padded vocabulary) are never chosen and not looked at. Raises ValueError on shapes that do not fit;
    never because of what the logits are.
    """
    rows, bad = _clean(logits, positions, valid_tokens)
    best = _ranked(rows, min(2, rows.shape[1]))
    ids = _pick(rows, best, positions, params)
    top = rows.gather(1, best).double()
    peak = top[:, :1].clamp_min(-3.5e38)  # a row without any finite logit: -inf minus -inf would be NaN
    shifted = rows.double() - peak
    weight = shifted.exp()
    sums = _row_sums(torch.stack([weight, (weight * shifted).nan_to_num(nan=0.0)]))
    total = sums[0].clamp_min(1e-300)
    chosen = shifted.gather(1, ids.unsqueeze(1))[:, 0]
    log_total = total.log()
    alive = torch.isfinite(chosen)
    table = torch.stack(
        [
            ids.double(),
            chosen - log_total,
            1.0 / total,
            top[:, 0] - top[:, -1],
            (log_total - sums[1] / total).clamp_min(0.0),
            (~bad).double(),
            alive.double(),
        ]
    ).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    columns = table.tolist()
    usable = [bool(flag) for flag in columns[6]]
    ids_out, logprob, top1, margin, entropy, finite = columns[:6]
    return Choice(
        ids=[int(value) for value in ids_out],
        logprob=_where(usable, logprob),
        top1_prob=_where(usable, top1),
        margin=_where(usable, margin),
        entropy=_where(usable, entropy),
        finite=[bool(flag) for flag in finite],
    )


def pick(logits: Tensor, positions: Sequence[int], params: SamplingParams, valid_tokens: int) -> Tensor:
    """The ids of `choose` alone, int64 [n] on the device of the logits, without waiting for it (for
    drafters)."""
    rows, _ = _clean(logits, positions, valid_tokens)
    return _pick(rows, _ranked(rows, 1), positions, params)


def _where(usable: list[bool], values: list[float]) -> list[float]:
    return [value if use else 0.0 for use, value in zip(usable, values, strict=True)]


def _clean(logits: Tensor, positions: Sequence[int], valid_tokens: int) -> tuple[Tensor, Tensor]:
    if logits.dim() != 2 or logits.shape[0] != len(positions):
        raise ValueError(f"logits: must be [{len(positions)}, V] for that many positions, not {list(logits.shape)}")
    if not 1 <= valid_tokens <= logits.shape[1]:
        raise ValueError(f"valid_tokens: must be between 1 and {logits.shape[1]}, not {valid_tokens}")
    rows = logits[:, :valid_tokens].float()
    finite = torch.isfinite(rows)
    # adding zero turns -0.0 into 0.0, so that the two compare equal below too
    return torch.where(finite, rows + 0.0, -math.inf), ~finite.all(dim=1)


def _ranked(rows: Tensor, count: int) -> Tensor:
    """Ids of the `count` best tokens of each row, best first, equal logits by lowest id: int64 [n, count].

    Sorts by one integer per token (the logit's bits in order-preserving form, then the id), in which no two
    are equal; so the answer does not depend on the algorithm that a device picks for a batch of this size.
    """
    bits = rows.contiguous().view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    ids = torch.arange(rows.shape[1], device=rows.device)
    keys = (ordered << 32) + (_ID_MASK - ids)
    if count == 1:
        top = keys.amax(dim=1, keepdim=True)
    elif count < rows.shape[1]:
        top = keys.topk(count, dim=1).values
    else:
        top = keys.sort(dim=1, descending=True).values
    return _ID_MASK - (top & _ID_MASK)


def _pick(rows: Tensor, best: Tensor, positions: Sequence[int], params: SamplingParams) -> Tensor:
    if params.greedy or params.top_k == 1:
        return best[:, 0]
    width = rows.shape[1]
    peak = rows.gather(1, best[:, :1]).double().clamp_min(-3.5e38)
    if params.top_k or params.top_p < 1:
        candidates = _ranked(rows, min(params.top_k, width) if params.top_k else width)
        scores = (rows.gather(1, candidates).double() - peak) / params.temperature
    else:
        candidates = torch.arange(width, device=rows.device).expand(rows.shape[0], width)
        scores = (rows.double() - peak) / params.temperature
    keep = torch.isfinite(scores)
    if params.top_p < 1:
        mass = (scores.exp() * _MASS_UNIT).long()
        reached = mass.cumsum(dim=1)
        keep &= (reached - mass) < reached[:, -1:].double() * params.top_p
    if params.min_p > 0:
        keep &= scores >= math.log(params.min_p)
    noise = _gumbel(_keys(params.seed, positions, rows.device), candidates)
    winner = torch.where(keep, scores + noise, -math.inf).argmax(dim=1, keepdim=True)
    return candidates.gather(1, winner)[:, 0]


def _mix(value: int) -> int:
    """SplitMix64's output function on the host."""
    value = ((value ^ (value >> 30)) * _MIX1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX2) & _MASK
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _keys(seed: int, positions: Sequence[int], device: torch.device) -> Tensor:
    """One SplitMix64 starting state per position: int64 [n, 1]."""
    root = _mix((seed + _GAMMA) & _MASK)
    keys = [[_signed(_mix((root ^ _mix((position + 1) * _GAMMA & _MASK)) & _MASK))] for position in positions]
    return torch.tensor(keys, dtype=torch.int64).to(device, non_blocking=True)


def _gumbel(keys: Tensor, ids: Tensor) -> Tensor:
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


def _row_sums(values: Tensor) -> Tensor:
    """Sums the last dimension by folding halves onto each other: the same order for any batch, on any
    device."""
    width = values.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        folded = values[..., :half].clone()
        folded[..., : width - half] += values[..., half:width]
        values, width = folded, half
    return values[..., 0]


def _is_finite(value: float) -> bool:
    """A number that a float can hold; an integer may be beyond that."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
