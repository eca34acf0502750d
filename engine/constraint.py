"""Filtered decoding: tokens that the caller's constraint refuses are passed over for the next in order.

Must not: know what is constrained, or change how a token that is allowed would have been chosen.
Invariant: the token of a row is the best in the sampler's order that the constraint allows after the tokens before it,
so it is a function of logits, history and position; drafts decide nothing but how many rows are computed at once.

The order is that of the perturbed scores (Gumbel-max: the argmax over a subset is an exact draw from the distribution
conditioned on that subset), the tokens that the sampler's filters keep first. Where those are all refused, the rest
follows in the same order. Greedy: by logit, equal ones by lowest id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from torch import Tensor

from engine.sampler import Choice, SamplingParams, choose, order


class Constraint(Protocol):
    """A state that depends on nothing but the tokens of the response that it was given."""

    def allows(self, token: int) -> bool:
        """Whether the response can still be completed with this token next (with an end-of-turn token: end here)."""

    def advance(self, token: int) -> None:
        """Takes the next token, also one that it does not allow (then it allows everything from there on)."""

    def clone(self) -> Self:
        """An independent copy; cheap, since one is made for every verify step."""


@dataclass(frozen=True, slots=True)
class ChosenFrom:
    """What the tokens of a step are chosen from. See `engine.sampler.choose`. first: position of the first row."""

    logits: Tensor
    first: int
    params: SamplingParams
    valid_tokens: int
    adjusted: Tensor | None
    top: int


@dataclass(slots=True)
class Filtered:
    """A step's choice under a constraint. replaced: rows whose unfiltered token was refused. dead_end: the row at which
    no token at all was allowed, so that the unfiltered one was taken; None = there was none."""

    choice: Choice
    replaced: list[int] = field(default_factory=list)
    dead_end: int | None = None


def cut(constraint: Constraint, drafts: Sequence[int]) -> list[int]:
    """The drafts before the first one that the constraint refuses."""
    state = constraint.clone()
    for index, token in enumerate(drafts):
        if not state.allows(token):
            return list(drafts[:index])
        state.advance(token)
    return list(drafts)


def filtered(constraint: Constraint, choice: Choice, drafts: Sequence[int], rows: ChosenFrom) -> Filtered:
    """Applies the constraint, and advances it over the tokens that stand: the accepted run and the one after it.

    choice: of the same rows, unfiltered. Rows behind the first rejected draft keep what they have.
    """
    found = Filtered(choice)
    for index in range(len(drafts) + 1):
        token = found.choice.ids[index]
        if not constraint.allows(token):
            other = _next_allowed(constraint, rows, index)
            if other is None:
                found.dead_end = index
            else:
                found.replaced.append(index)
                found.choice = _spliced(found.choice, index, _described(rows, index, other))
                token = other
        constraint.advance(token)
        if index < len(drafts) and token != drafts[index]:
            break
    return found


def _next_allowed(constraint: Constraint, rows: ChosenFrom, index: int) -> int | None:
    adjusted = None if rows.adjusted is None else rows.adjusted[index : index + 1]
    logits = rows.logits[index : index + 1]
    ordered = order(logits, rows.first + index, rows.params, rows.valid_tokens, adjusted)
    return next((token for token in ordered if constraint.allows(token)), None)


def _described(rows: ChosenFrom, index: int, token: int) -> Choice:
    """The numbers of one row about another token than the sampler's."""
    adjusted = None if rows.adjusted is None else rows.adjusted[index : index + 1]
    return choose(
        rows.logits[index : index + 1],
        [rows.first + index],
        rows.params,
        rows.valid_tokens,
        adjusted,
        rows.top,
        taken=[token],
    )


def _spliced(choice: Choice, index: int, row: Choice) -> Choice:
    names = Choice.__dataclass_fields__
    columns = {name: list(getattr(choice, name)) for name in names}
    for name in names:
        columns[name][index] = getattr(row, name)[0]
    return Choice(**columns)
