"""Filtered decoding: an exact draw from what is allowed, and the same tokens whoever drafts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import engine.constraint
from engine.constraint import ChosenFrom, Constraint, cut, filtered
from engine.drafters.mtp import MtpDrafter
from engine.engine import EMBEDDED
from engine.model import Model
from engine.sampler import Choice, SamplingParams, choose, order
from engine.tokenizer import Tokenizer
from engine.turn import Turn
from tests.engine.test_distribution import chi_square_p
from tests.engine.test_turn import GREEDY, WARM, Fixed, start

torch.set_num_threads(1)

VOCAB = 12
DRAWS = 6_000
PENALISED = SamplingParams(0.8, seed=5, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3)


class Only:
    """A constant set of tokens."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = frozenset(tokens)

    def allows(self, token: int) -> bool:
        return token in self._tokens

    def advance(self, token: int) -> None: ...

    def clone(self) -> Only:
        return self


class Spaced:
    """From the `since`th token on, none leaves the remainder of 3 that the one before it left. Ends are allowed."""

    def __init__(self, ends: frozenset[int], since: int = 0) -> None:
        self._ends, self._since, self._last, self.seen = ends, since, -1, 0

    def allows(self, token: int) -> bool:
        return token in self._ends or self.seen < self._since or token % 3 != self._last % 3

    def advance(self, token: int) -> None:
        self._last, self.seen = token, self.seen + 1

    def clone(self) -> Spaced:
        other = Spaced(self._ends, self._since)
        other._last, other.seen = self._last, self.seen
        return other


def logits(seed: int = 3) -> Tensor:
    return torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 1.5


def drawn(params: SamplingParams, constraint: Constraint) -> list[int]:
    """How often each token is taken, over DRAWS positions.

    What the sampler takes without the constraint comes from one call for all: a row knows nothing of the others.
    """
    row, counts = logits(), [0] * VOCAB
    unfiltered = choose(row.expand(DRAWS, VOCAB), range(DRAWS), params, VOCAB)
    for position in range(DRAWS):
        choice = Choice(**{name: [getattr(unfiltered, name)[position]] for name in Choice.__dataclass_fields__})
        found = filtered(constraint, choice, [], ChosenFrom(row, position, params, VOCAB, None, 0))
        counts[found.choice.ids[0]] += 1
    return counts


def conditional(kept: Sequence[int], temperature: float) -> list[float]:
    """Expected counts."""
    weights = (logits()[0].double() / temperature).exp()
    total = sum(float(weights[token]) for token in kept)
    return [DRAWS * float(weights[token]) / total if token in kept else 0.0 for token in range(VOCAB)]


def test_an_exact_draw_from_what_is_allowed() -> None:
    allowed = (1, 4, 5, 9, 11)
    counts = drawn(SamplingParams(1.0, seed=9), Only(allowed))
    assert [token for token in range(VOCAB) if counts[token]] == list(allowed)
    assert chi_square_p(counts, conditional(allowed, 1.0)) > 1e-3


def test_the_filters_come_before_the_constraint() -> None:
    best = torch.argsort(logits()[0], descending=True).tolist()
    kept, allowed = best[:6], best[1::2]
    counts = drawn(SamplingParams(0.7, top_k=6, seed=10), Only(allowed))
    assert chi_square_p(counts, conditional([token for token in kept if token in allowed], 0.7)) > 1e-3


def test_where_the_filters_leave_nothing_the_rest_is_drawn_from() -> None:
    best = torch.argsort(logits()[0], descending=True).tolist()
    allowed = best[5:9]
    counts = drawn(SamplingParams(0.7, top_k=3, seed=11), Only(allowed))
    assert chi_square_p(counts, conditional(allowed, 0.7)) > 1e-3


@pytest.mark.parametrize("mutant", ["by logit", "by id"])
def test_another_order_is_another_distribution(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    def wrong(row: Tensor, *_: Any) -> Any:
        ranked = torch.argsort(row[0], descending=True).tolist()
        return iter(ranked if mutant == "by logit" else range(VOCAB))

    monkeypatch.setattr(engine.constraint, "order", wrong)
    allowed = (1, 4, 5, 9, 11)
    assert chi_square_p(drawn(SamplingParams(1.0, seed=9), Only(allowed)), conditional(allowed, 1.0)) < 1e-6


@pytest.mark.parametrize(
    "params",
    [GREEDY, WARM, SamplingParams(1.3, top_k=5, top_p=0.8, min_p=0.05, seed=8), SamplingParams(0.5, top_k=1, seed=8)],
)
def test_the_order_begins_with_what_is_taken_and_removing_it_gives_the_next(params: SamplingParams) -> None:
    for position in range(50):
        row = logits(position)
        ordered = list(order(row, position, params, VOCAB))
        assert sorted(ordered) == list(range(VOCAB))
        assert ordered[0] == choose(row, [position], params, VOCAB).ids[0]
        if params.top_k or params.top_p < 1:
            continue
        without = row.clone()
        without[0, ordered[0]] = -torch.inf
        assert choose(without, [position], params, VOCAB).ids[0] == ordered[1]


def test_tokens_without_a_finite_logit_come_never() -> None:
    row = logits()
    row[0, 3], row[0, 5] = torch.nan, -torch.inf
    for params in (GREEDY, WARM):
        assert sorted(order(row, 0, params, VOCAB)) == [token for token in range(VOCAB) if token not in (3, 5)]


def test_drafts_are_cut_at_the_first_that_is_refused() -> None:
    state = Spaced(frozenset())
    assert cut(state, [1, 2, 5, 3]) == [1, 2]
    assert cut(state, [1, 2, 3]) == [1, 2, 3]
    assert state.seen == 0


@pytest.fixture(scope="module", params=["random", "embedded"])
def loaded(request: pytest.FixtureRequest, tiny_folder: Path) -> tuple[Model, Tokenizer]:
    folder = tiny_folder if request.param == "random" else EMBEDDED
    return Model.load(folder), Tokenizer.load(folder)


def run(turn: Turn) -> tuple[list[Any], int]:
    """Everything reported of the tokens, and how many were replaced."""
    tokens: list[Any] = []
    replaced = 0
    while not turn.ended:
        report = turn.step()
        tokens += report.tokens
        replaced += report.filtered
        assert not report.dead_end
    return tokens, replaced


@pytest.mark.parametrize("sampling", [GREEDY, WARM, PENALISED], ids=["greedy", "warm", "penalised"])
def test_speculation_gives_the_tokens_of_plain_filtered_decoding(
    loaded: tuple[Model, Tokenizer], sampling: SamplingParams
) -> None:
    make: Callable[[], Spaced] = lambda: Spaced(loaded[1].eos_ids)  # noqa: E731
    plain = start(loaded, "none", sampling, constraint=make())
    truth, replaced = run(plain)
    assert replaced > 0
    unfiltered = start(loaded, "none", sampling)
    run(unfiltered)
    assert unfiltered.generated != plain.generated
    for drafter in ("ngram", "mtp", "mtp+ngram"):
        turn = start(loaded, drafter, sampling, constraint=make())
        for each in turn.sequence.drafters.values():
            if isinstance(each, MtpDrafter):  # it knows no penalties
                each.sampling = SamplingParams(sampling.temperature, seed=sampling.seed)
        assert run(turn) == (truth, replaced)
    for right in (1.0, 0.7):
        turn = start(loaded, "fixed", sampling, constraint=make())
        turn.sequence.drafters["fixed"] = Fixed([*turn.sequence.tokens, *plain.generated], right, seed=3)
        turn.sequence.drafters["fixed"].begin(turn.sequence.tokens)
        assert run(turn) == (truth, replaced)


def test_a_constraint_that_begins_inside_a_draft(loaded: tuple[Model, Tokenizer]) -> None:
    for since in range(1, 9):
        plain = start(loaded, "none", WARM, constraint=Spaced(loaded[1].eos_ids, since), max_tokens=24)
        truth = run(plain)
        turn = start(loaded, "fixed", WARM, constraint=Spaced(loaded[1].eos_ids, since), max_tokens=24)
        turn.sequence.drafters["fixed"] = Fixed([*turn.sequence.tokens, *plain.generated], 0.9, since)
        turn.sequence.drafters["fixed"].begin(turn.sequence.tokens)
        assert run(turn) == truth


@pytest.mark.parametrize("since", [0, 8, 24])
def test_a_rewind_restores_the_constraint(loaded: tuple[Model, Tokenizer], since: int) -> None:
    """Also where it was when it had not begun yet."""
    plain = start(loaded, "none", WARM, constraint=Spaced(loaded[1].eos_ids, since))
    run(plain)
    rng = random.Random(4)
    turn = start(loaded, "mtp+ngram", WARM, constraint=Spaced(loaded[1].eos_ids, since))
    for drafter in ("none", "mtp", "ngram", "mtp+ngram"):
        for _ in range(4):
            if not turn.ended:
                turn.step()
        turn.rewind(rng.randrange(len(turn.generated)), drafter, trusted=drafter == "none")
    run(turn)
    assert turn.generated == plain.generated


def test_a_dead_end_is_told_and_does_not_hang(loaded: tuple[Model, Tokenizer]) -> None:
    unfiltered = start(loaded)
    turn = start(loaded, constraint=Only(()))
    report = turn.step()
    assert (report.dead_end, report.filtered) == (True, 0)
    assert report.tokens == unfiltered.step().tokens
