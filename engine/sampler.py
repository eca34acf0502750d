"""Choosing tokens from logits: greedy, or Gumbel-max with noise that depends on seed, position and token alone.

Must not: keep state between calls, look at other rows, or wait for the device more than once per call.
Invariant: a row's outcome is a function of (logits, history, position, params) only; the history enters through the
adjusted logits of engine.penalties. Whoever asks, plain decoding, a verify step or a drafter, in whatever batch, gets
the same token. For that every reduction here is a comparison, an exact integer sum or a fixed-order tree, never a
float sum whose order may depend on the batch.

Sources: Gumbel-max with noise shared by drafter and target: Daliri, Musco, Suresh, "Coupling without
Communication and Drafter-Invariant Speculative Decoding" (arXiv 2408.07978). Top-p: Holtzman et al., arXiv
1904.09751. Min-p: Nguyen et al., arXiv 2407.01082.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.drawn import Draw, draw_numbers
from engine.noise import gumbel_at, keys_at
from engine.reports import DrawnReport
from engine.upload import on_host

MAX_TOP = 20
"""Most alternatives that are reported per token: OpenAI's limit of `top_logprobs`."""

_CHUNK = 64
_MASK = (1 << 64) - 1
_ID_MASK = (1 << 32) - 1
_MASS_UNIT = float(1 << 40)  # probability mass is summed in these: exact in int64 up to 2^22 tokens


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. Raises ValueError that names the field.

    temperature 0 is greedy and ignores seed and filters. Filters apply after the temperature in the order top_k (0 =
    off), top_p (1 = off; relative to what top_k left), min_p (0 = off; relative to the most likely token).
    seed: 64 bits. The other fields change the logits before all that, also in greedy decoding: see engine.penalties.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        floats = "temperature top_p min_p repetition_penalty presence_penalty frequency_penalty"
        for name in floats.split():
            value = getattr(self, name)
            if not _is_finite(value):
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
        if not 0 < self.repetition_penalty <= 10:
            raise ValueError(f"repetition_penalty: must be above 0 and at most 10, not {self.repetition_penalty}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise ValueError(f"{name}: must be between -2 and 2, not {getattr(self, name)}")
        for token, bias in self.logit_bias:
            if isinstance(token, bool) or not isinstance(token, int) or token < 0:
                raise ValueError(f"logit_bias: {token!r:.40} is not a token id")
            if not _is_finite(bias) or not -100 <= bias <= 100:
                raise ValueError(
                    f"logit_bias: the bias of token {token} must be between -100 and 100, not {bias!r:.40}"
                )
        if len({token for token, _ in self.logit_bias}) < len(self.logit_bias):
            raise ValueError("logit_bias: a token is named twice")

    @property
    def penalised(self) -> bool:
        """True if a token's logit depends on what was said before."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def adjusts(self) -> bool:
        """True if tokens are not chosen from the model's own logits: penalties or biases are set."""
        return self.penalised or bool(self.logit_bias)

    @property
    def greedy(self) -> bool:
        """True if the most likely token is always taken."""
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What `choose` took, one entry per row.

    The numbers describe the model's own distribution over the valid tokens: temperature 1, no filters, no penalties or
    biases, natural logarithms. logprob: of the chosen token; margin: best minus second-best logit (0 if there is no
    second one). top: the likeliest tokens as (id, logprob), best first, as many as asked for. finite: no NaN or
    infinity among the valid logits; if false, such tokens were left out (and id 0 was chosen if nothing was left), and
    the numbers are about the rest.

    own: what the rows themselves choose; not `ids` only where somebody else has said what is taken although the row was
    drawn from.

    Of the distribution that the token was drawn from, if that was asked for and anything was drawn (else None): drawn,
    and expected: the probability of the row's draft.
    """

    ids: list[int]
    logprob: list[float]
    top1_prob: list[float]
    margin: list[float]
    entropy: list[float]
    finite: list[bool]
    top: list[tuple[tuple[int, float], ...]]
    drawn: list[DrawnReport | None]
    expected: list[float | None]
    own: list[int]


def choose(
    logits: Tensor,
    positions: Sequence[int],
    params: SamplingParams,
    valid_tokens: int,
    adjusted: Tensor | None = None,
    top: int = 0,
    taken: Sequence[int] | None = None,
    drafts: Sequence[int] | None = None,
) -> Choice:
    """Takes one token per row; waits for the device once.

    logits: float32 [n, V], the model's own; positions: n absolute positions of the tokens to be chosen; ids from
    valid_tokens on (a padded vocabulary) are never chosen and not looked at. adjusted: what `Penalties.adjust` made
    of the logits, [n, valid_tokens] or wider. top: how many of the likeliest tokens to report per row. taken: these ids
    instead of the sampler's, one per row. drafts: of the first rows; None = `drawn` and `expected` are not wanted.
    Raises ValueError on shapes that do not fit and on params that need `adjusted`; never because of what the logits
    are.
    """
    rows, bad = _clean(logits, positions, valid_tokens)
    best = _ranked(rows, min(max(2, top), rows.shape[1]))
    draw: Draw | None = None
    if taken is None or (drafts is not None and not params.greedy):
        own, draw = _take(rows, best, positions, params, adjusted, valid_tokens)
        ids = own if taken is None else on_host(taken, rows.device).to(rows.device, non_blocking=True)
    else:
        own = ids = on_host(taken, rows.device).to(rows.device, non_blocking=True)
    leaders = rows.gather(1, best).double()
    peak = leaders[:, :1].clamp_min(-3.5e38)  # a row without any finite logit: -inf minus -inf would be NaN
    shifted = rows.double() - peak
    weight = shifted.exp()
    sums = _row_sums(torch.stack([weight, (weight * shifted).nan_to_num(nan=0.0)]))
    total = sums[0].clamp_min(1e-300)
    chosen = shifted.gather(1, ids.unsqueeze(1))[:, 0]
    log_total = total.log()
    alive = torch.isfinite(chosen)
    listed = best[:, :top]
    numbers = draw_numbers(draw, ids, drafts).unbind(0) if draw is not None and drafts is not None else ()
    table = torch.stack(
        [
            ids.double(),
            own.double(),
            chosen - log_total,
            1.0 / total,
            leaders[:, 0] - leaders[:, min(1, leaders.shape[1] - 1)],
            (log_total - sums[1] / total).clamp_min(0.0),
            (~bad).double(),
            alive.double(),
            *numbers,
            # a token without a finite logit is no alternative
            *torch.where(torch.isfinite(leaders[:, :top]), listed, -1).double().unbind(1),
            *(shifted.gather(1, listed) - log_total.unsqueeze(1)).unbind(1),
        ]
    ).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    columns = table.tolist()
    usable = [bool(flag) for flag in columns[7]]
    ids_out, own_out, logprob, top1, margin, entropy, finite = columns[:7]
    drawn, expected = _as_drawn(columns[8 : 8 + len(numbers)], len(ids_out))
    return Choice(
        ids=[int(value) for value in ids_out],
        logprob=_where(usable, logprob),
        top1_prob=_where(usable, top1),
        margin=_where(usable, margin),
        entropy=_where(usable, entropy),
        finite=[bool(flag) for flag in finite],
        top=_alternatives(columns[8 + len(numbers) :], len(ids_out)),
        drawn=drawn,
        expected=expected,
        own=[int(value) for value in own_out],
    )


def pick(
    logits: Tensor,
    positions: Sequence[int],
    params: SamplingParams,
    valid_tokens: int,
    adjusted: Tensor | None = None,
) -> Tensor:
    """The ids of `choose` alone, int64 [n] on the device of the logits, without waiting for it."""
    rows, _ = _clean(logits, positions, valid_tokens)
    return _take(rows, None, positions, params, adjusted, valid_tokens)[0]


def guess(
    logits: Tensor,
    positions: Sequence[int],
    params: SamplingParams,
    valid_tokens: int,
    adjusted: Tensor | None = None,
) -> Tensor:
    """`pick` for drafters, whose ids are verified: cheaper, and another id where two logits are equal or one is no
    number."""
    if params.greedy and adjusted is None and not params.adjusts:
        return logits[:, :valid_tokens].argmax(dim=1)
    return pick(logits, positions, params, valid_tokens, adjusted)


def order(
    logits: Tensor, position: int, params: SamplingParams, valid_tokens: int, adjusted: Tensor | None = None
) -> Iterator[int]:
    """All valid tokens of one row in the order in which they would be taken if those before them were not there.

    logits, adjusted: [1, V]. The first is the token that `choose` takes. Those that the filters leave out come last.
    Tokens without a finite logit come never. Waits for the device now and then.
    """
    rows, _ = _clean(logits if adjusted is None else adjusted, [position], valid_tokens)
    ranked = _ranked(rows, rows.shape[1])
    if params.greedy:
        scores = rows.gather(1, ranked).double()
    else:
        scores, keep = _scored(rows, ranked, ranked, params)
        scores = scores + gumbel_at(keys_at(params.seed, [position], rows.device), ranked)
        # both sorts are stable, so that equal scores stay in the order of the candidates, as argmax takes the first
        by_score = scores.sort(dim=1, descending=True, stable=True).indices
        by_score = by_score.gather(1, (~keep.gather(1, by_score)).byte().sort(dim=1, stable=True).indices)
        ranked, scores = ranked.gather(1, by_score), scores.gather(1, by_score)
    usable = int(torch.isfinite(scores).sum())
    for start in range(0, usable, _CHUNK):
        yield from ranked[0, start : min(start + _CHUNK, usable)].tolist()


def _take(
    rows: Tensor,
    best: Tensor | None,
    positions: Sequence[int],
    params: SamplingParams,
    adjusted: Tensor | None,
    valid_tokens: int,
) -> tuple[Tensor, Draw | None]:
    """Ids from the adjusted logits where there are any, and what they were drawn from.

    best: the ranking of the model's own rows, if known.
    """
    if adjusted is None:
        if params.adjusts:
            raise ValueError("adjusted: these params hold penalties or biases; pass what Penalties.adjust returns")
    else:
        rows, _ = _clean(adjusted, positions, valid_tokens)
        best = None
    return _pick(rows, _ranked(rows, 1) if best is None else best, positions, params)


def _alternatives(columns: list[list[float]], rows: int) -> list[tuple[tuple[int, float], ...]]:
    """columns: first the ids by rank, then their log-probabilities by rank, each of them one value per row."""
    half = len(columns) // 2
    pairs = [zip(ids, logprobs, strict=True) for ids, logprobs in zip(columns[:half], columns[half:], strict=True)]
    ranked = zip(*pairs, strict=True) if pairs else [()] * rows
    return [tuple((int(token), logprob) for token, logprob in row if token >= 0) for row in ranked]


def _as_drawn(columns: list[list[float]], rows: int) -> tuple[list[DrawnReport | None], list[float | None]]:
    """columns: those of `draw_numbers`, or none."""
    if not columns:
        return [None] * rows, [None] * rows
    logprob, entropy, variance, expected = columns
    drawn = [DrawnReport(*row) for row in zip(logprob, entropy, variance, strict=True)]
    return list(drawn), [None if value < 0 else value for value in expected]


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


def _pick(rows: Tensor, best: Tensor, positions: Sequence[int], params: SamplingParams) -> tuple[Tensor, Draw | None]:
    if params.greedy or params.top_k == 1:
        return best[:, 0], None
    width = rows.shape[1]
    if params.top_k or params.top_p < 1:
        candidates = _ranked(rows, min(params.top_k, width) if params.top_k else width)
    else:
        candidates = torch.arange(width, device=rows.device).expand(rows.shape[0], width)
    scores, keep = _scored(rows, candidates, best, params)
    noise = gumbel_at(keys_at(params.seed, positions, rows.device), candidates)
    winner = torch.where(keep, scores + noise, -math.inf).argmax(dim=1, keepdim=True)
    return candidates.gather(1, winner)[:, 0], Draw(candidates, scores, keep)


def _scored(rows: Tensor, candidates: Tensor, best: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The candidates' logits over the temperature (the best one's is 0), and which of them the filters keep.

    candidates: [n, C], best first if there is a top_k or top_p; best: [n, 1 or more], the best token first.
    """
    peak = rows.gather(1, best[:, :1]).double().clamp_min(-3.5e38)
    scores = (rows.gather(1, candidates).double() - peak) / params.temperature
    keep = torch.isfinite(scores)
    if 0 < params.top_k < candidates.shape[1]:
        keep[:, params.top_k :] = False
    if params.top_p < 1:
        mass = (scores.exp() * _MASS_UNIT).long() * keep
        reached = mass.cumsum(dim=1)
        keep &= (reached - mass) < reached[:, -1:].double() * params.top_p
    if params.min_p > 0:
        keep &= scores >= math.log(params.min_p)
    return scores, keep


def _row_sums(values: Tensor) -> Tensor:
    """Sums the last dimension by folding halves onto each other: the same order for any batch, on any
    device."""
    width = values.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        if width == 2 * half:
            values, width = values[..., :half] + values[..., half:], half
            continue
        folded = values[..., :half].clone()
        folded[..., : width - half] += values[..., half:width]
        values, width = folded, half
    return values[..., 0]


def _is_finite(value: object) -> bool:
    """A number that a float can hold; an integer may be beyond that."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
