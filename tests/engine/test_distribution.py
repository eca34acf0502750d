"""Speculation samples the target's distribution: chi-square at every position, and seeded mutants must be found.

Many responses are decoded side by side with the engine's own parts (Penalties, pick, choose, accepted_run) in the order
of Turn.step: draft, adjust, choose, accept, commit. A bigram table stands in for the model, so that the exact
distribution of every position can be enumerated; it is written down here without the engine's code.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.penalties import Penalties
from engine.sampler import SamplingParams, choose, pick
from engine.verify import accepted_run

torch.set_num_threads(1)

VOCAB, LENGTH, SAMPLES = 12, 4, 40_000
PROMPT = (0, 5, 5, 3)
FOUND = 1e-8
"""A mutant is found where a position's p is below this; sound code stays above 1e-4 everywhere."""

TABLE = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(1)) * 1.2
DRAFTER = TABLE + torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(2)) * 0.6
PENALTIES = {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.7}

PARAMS = {
    "0.7": SamplingParams(temperature=0.7, seed=11),
    "1.0": SamplingParams(temperature=1.0, seed=12),
    "top-k": SamplingParams(temperature=1.0, top_k=5, seed=13),
    "top-p": SamplingParams(temperature=0.7, top_p=0.85, seed=14),
    "min-p": SamplingParams(temperature=1.0, min_p=0.1, seed=15),
    "penalties": SamplingParams(temperature=1.0, seed=16, **PENALTIES),
    "all": SamplingParams(0.7, top_k=9, top_p=0.95, min_p=0.02, seed=17, logit_bias=((2, 1.0), (6, -1.5)), **PENALTIES),
}


@cache
def target(history: tuple[int, ...], params: SamplingParams) -> list[float]:
    """The distribution of the next token after PROMPT and `history`, as the definitions read."""
    before = [*PROMPT, *history]
    counts = Counter(history)
    logits = TABLE[before[-1]].tolist()
    for token, bias in params.logit_bias:
        logits[token] += bias
    for token in set(before):
        factor = params.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token, count in counts.items():
        logits[token] -= count * params.frequency_penalty + params.presence_penalty
    order = sorted(range(VOCAB), key=lambda token: (-logits[token], token))[: params.top_k or VOCAB]
    weights = {token: math.exp((logits[token] - logits[order[0]]) / params.temperature) for token in order}
    total, mass, kept = sum(weights.values()), 0.0, {}
    for token in order:
        if mass < params.top_p * total and weights[token] >= params.min_p:
            kept[token] = weights[token]
        mass += weights[token]
    return [kept.get(token, 0.0) / sum(kept.values()) for token in range(VOCAB)]


def marginals(params: SamplingParams) -> list[list[float]]:
    """Probability of every token at every position, by enumerating all beginnings."""
    result: list[list[float]] = []
    reached: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        sums, following = [0.0] * VOCAB, {}
        for history, weight in reached.items():
            for token, p in enumerate(target(history, params)):
                sums[token] += weight * p
                if p:
                    following[(*history, token)] = weight * p
        result.append(sums)
        reached = following
    return result


@dataclass(frozen=True, slots=True)
class Verified:
    """One verify step of one response. `fresh`: what the rows would choose with other noise."""

    history: list[int]
    drafts: list[int]
    ids: list[int]
    fresh: list[int]
    params: SamplingParams
    rng: random.Random


@dataclass(frozen=True, slots=True)
class Rules:
    """What a verify step does with its rows; the defaults are the engine's."""

    adjust: Callable[[Penalties, Tensor, Sequence[int]], Tensor | None] = Penalties.adjust
    bonus_row: int = 0
    """How many rows before the right one the bonus token is taken from."""
    accept: Callable[[Verified], int] = lambda step: accepted_run(step.ids, step.drafts)
    rejected: Callable[[Verified, int], int] = lambda step, at: step.ids[at]
    needs_fresh: bool = False


def look_up(
    contexts: Tensor, split: int, rows: int, params: SamplingParams, table: Tensor, rules: Rules
) -> tuple[Tensor, Tensor | None]:
    """Logits [n, rows, V] after contexts[:, :split] and the drafts behind it, and what the penalties make of them."""
    whole = torch.cat([torch.full((len(contexts), 1), PROMPT[-1]), contexts], dim=1)
    codes = (whole * VOCAB ** torch.arange(whole.shape[1])).sum(dim=1)
    codes, which = torch.unique(codes, return_inverse=True)
    distinct = codes.unsqueeze(1) // VOCAB ** torch.arange(whole.shape[1]) % VOCAB
    logits = table[distinct[:, -rows:]]
    adjusted: list[Tensor] = []
    for index, context in enumerate(distinct[:, 1:].tolist() if params.adjusts else ()):
        penalties = Penalties(params, VOCAB, PROMPT)
        penalties.extend(context[:split])
        row = rules.adjust(penalties, logits[index], context[split:])
        assert row is not None
        adjusted.append(row)
    return logits[which], torch.stack(adjusted)[which] if adjusted else None


def decode(params: SamplingParams, coupled: bool, rules: Rules, samples: int) -> Tensor:
    """`samples` responses of LENGTH tokens, each at absolute positions of its own: [samples, LENGTH].

    coupled: the drafter samples with the target's noise, as the MTP head does; else it drafts its likeliest token.
    """
    rng = random.Random(3)
    said = torch.zeros(samples, LENGTH, dtype=torch.int64)
    lengths = torch.zeros(samples, dtype=torch.int64)
    drafting = params if coupled else replace(params, temperature=0.0)
    for length in range(LENGTH):
        active = (lengths == length).nonzero()[:, 0]
        first = active * LENGTH + length
        contexts = said[active, :length]
        wanted = LENGTH - length - 1
        for ahead in range(wanted):
            logits, adjusted = look_up(contexts, length, 1, params, DRAFTER, Rules())
            flat = None if adjusted is None else adjusted[:, 0]
            drafts = pick(logits[:, 0], (first + ahead).tolist(), drafting, VOCAB, flat)
            contexts = torch.cat([contexts, drafts.unsqueeze(1)], dim=1)
        logits, adjusted = look_up(contexts, length, wanted + 1, params, TABLE, rules)
        for tensor in (logits, adjusted):
            if tensor is not None and wanted:
                tensor[:, -1] = tensor[:, -1 - rules.bonus_row].clone()
        positions = (first.unsqueeze(1) + torch.arange(wanted + 1)).flatten().tolist()
        flat = None if adjusted is None else adjusted.flatten(0, 1)
        chosen = choose(logits.flatten(0, 1), positions, params, VOCAB, flat).ids
        fresh = chosen
        if rules.needs_fresh:
            other = replace(params, seed=params.seed + 1000)
            fresh = pick(logits.flatten(0, 1), positions, other, VOCAB, flat).tolist()
        after: list[list[int]] = []
        taken: list[int] = []
        for place, context in enumerate(contexts.tolist()):
            here = slice(place * (wanted + 1), (place + 1) * (wanted + 1))
            step = Verified(context[:length], context[length:], chosen[here], fresh[here], params, rng)
            accepted = rules.accept(step)
            last = step.ids[accepted] if accepted == wanted else rules.rejected(step, accepted)
            after.append([*context[: length + accepted], last, *[0] * (wanted - accepted)])
            taken.append(accepted + 1)
        said[active] = torch.tensor(after)
        lengths[active] += torch.tensor(taken)
    return said


def p_values(params: SamplingParams, coupled: bool, rules: Rules | None = None, samples: int = SAMPLES) -> list[float]:
    """Chi-square of every position, the bonus token's included; 0 where something impossible was said."""
    said = decode(params, coupled, rules or Rules(), samples)
    result = []
    for position, exact in enumerate(marginals(params)):
        counts = torch.bincount(said[:, position], minlength=VOCAB).tolist()
        possible = all(count == 0 for count, p in zip(counts, exact, strict=True) if p == 0)
        result.append(chi_square_p(counts, [p * samples for p in exact]) if possible else 0.0)
    return result


def chi_square_p(counts: list[int], expected: list[float]) -> float:
    """Upper tail by the Wilson-Hilferty normal approximation; cells with fewer than 5 expected are joined."""
    cells = [(c, e) for c, e in zip(counts, expected, strict=True) if e >= 5]
    rest = [(c, e) for c, e in zip(counts, expected, strict=True) if 0 < e < 5]
    if rest:
        cells.append((sum(c for c, _ in rest), sum(e for _, e in rest)))
    freedom = len(cells) - 1
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


@pytest.mark.parametrize(("name", "coupled"), [*((n, True) for n in PARAMS), ("1.0", False), ("all", False)])
def test_every_position_has_the_targets_distribution(name: str, coupled: bool) -> None:
    assert min(p_values(PARAMS[name], coupled)) > 1e-4


def accept_too_much(step: Verified) -> int:
    """Acceptance times 1.1: a draft of probability p stands with 1.1 p."""
    for index, draft in enumerate(step.drafts):
        if step.ids[index] == draft:
            continue
        p = target((*step.history, *step.drafts[:index]), step.params)[draft]
        if p == 1 or step.rng.random() >= 0.1 * p / (1 - p):
            return index
    return len(step.drafts)


def stale(penalties: Penalties, logits: Tensor, drafts: Sequence[int]) -> Tensor | None:
    """All rows are adjusted for the history before the step."""
    rows = [penalties.adjust(logits[row : row + 1]) for row in range(logits.shape[0])]
    return torch.cat([row for row in rows if row is not None])


def lagging(penalties: Penalties, logits: Tensor, drafts: Sequence[int]) -> Tensor | None:
    """Each row misses the draft directly before it."""
    rows = [penalties.adjust(logits[row : row + 1], drafts[: max(row - 1, 0)]) for row in range(logits.shape[0])]
    return torch.cat([row for row in rows if row is not None])


def runner_up(step: Verified, at: int) -> int:
    """The likeliest token other than the rejected draft."""
    p = target((*step.history, *step.drafts[:at]), step.params)
    return max((token for token in range(VOCAB) if token != step.drafts[at]), key=p.__getitem__)


NO_RESIDUAL = Rules(rejected=lambda step, at: step.fresh[at], needs_fresh=True)
MUTANTS: list[tuple[str, str, bool, Rules, set[int]]] = [
    ("bonus from the wrong row", "1.0", True, Rules(bonus_row=1), {3}),
    ("acceptance times 1.1", "0.7", False, Rules(accept=accept_too_much), {0}),
    ("stale penalties", "penalties", True, Rules(adjust=stale), {1, 2, 3}),
    ("lagging penalties", "penalties", False, Rules(adjust=lagging), {1, 2}),
    ("residual missing", "1.0", False, NO_RESIDUAL, {0}),
    ("runner-up", "1.0", False, Rules(rejected=runner_up), {0}),
]


MORE_MUTANTS: list[tuple[str, str, bool, Rules, set[int]]] = [
    ("bonus from the wrong row", "penalties", True, Rules(bonus_row=1), {3}),
    ("acceptance times 1.1", "penalties", False, Rules(accept=accept_too_much), {0}),
    ("residual missing, coupled", "1.0", True, NO_RESIDUAL, {0}),
]


def named(mutant: tuple[str, str, bool, Rules, set[int]], slow: bool = False) -> Any:
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(*mutant, id=f"{mutant[0]}-{mutant[1]}", marks=marks)


@pytest.mark.parametrize(
    ("name", "params", "coupled", "rules", "where"),
    [*map(named, MUTANTS), *(named(mutant, slow=True) for mutant in MORE_MUTANTS)],
)
def test_the_check_finds_a_mutant(name: str, params: str, coupled: bool, rules: Rules, where: set[int]) -> None:
    found = p_values(PARAMS[params], coupled, rules)
    assert {position for position, p in enumerate(found) if p < FOUND} >= where, (name, found)


def test_drafts_are_accepted_and_rejected_at_every_position() -> None:
    """Else the checks above would be about plain decoding."""
    accepted: Counter[int] = Counter()

    def accept(step: Verified) -> int:
        count = accepted_run(step.ids, step.drafts)
        if len(step.drafts) == LENGTH - 1:
            accepted[count] += 1
        return count

    for coupled in (True, False):
        accepted.clear()
        decode(PARAMS["1.0"], coupled, Rules(accept=accept), 4000)
        assert min(accepted[count] for count in range(LENGTH)) > 50, accepted


@pytest.mark.slow
@pytest.mark.parametrize("coupled", [True, False], ids=["coupled", "likeliest"])
@pytest.mark.parametrize("name", PARAMS)
def test_five_times_as_many_samples(name: str, coupled: bool) -> None:
    assert min(p_values(PARAMS[name], coupled, samples=5 * SAMPLES)) > 1e-4
