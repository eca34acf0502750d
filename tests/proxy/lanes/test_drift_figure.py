"""The drift figure: near-ties are inside, greedy and drawn tokens are counted apart."""

from __future__ import annotations

import pytest

from proxy.lanes.drift_figure import NEAR_TIE, SUPPORT, DriftFigure, Tally, tally
from proxy.lanes.teacher import Score


def at(gap: float, best: float = -0.1) -> Score:
    return Score(1, best - gap, 1 if gap == 0 else 2, best)


@pytest.mark.parametrize(("gap", "inside"), [(0.0, 1), (NEAR_TIE - 1e-6, 1), (NEAR_TIE + 1e-6, 0), (5.0, 0)])
def test_near_ties_of_greedy_turns(gap: float, inside: int) -> None:
    found = tally([at(gap)], "greedy")
    assert (found.tokens, found.inside, found.equal) == (1, inside, int(gap == 0))
    assert found.widest == pytest.approx(gap)


@pytest.mark.parametrize(("logprob", "inside"), [(-0.1, 1), (-5.0, 1), (SUPPORT, 1), (SUPPORT - 0.01, 0)])
def test_drawn_tokens_only_have_to_be_possible(logprob: float, inside: int) -> None:
    assert tally([Score(1, logprob, 2, -0.05)], "sampled").inside == inside


def test_figures_are_of_a_context_and_of_how_tokens_were_chosen() -> None:
    figure = DriftFigure()
    figure.add(500, "greedy", tally([at(0), at(1)], "greedy"))
    figure.add(900, "greedy", tally([at(0), at(0)], "greedy"))
    figure.add(900, "sampled", tally([at(1)], "sampled"))
    figure.add(5000, "greedy", tally([at(3)], "greedy"))
    assert figure.tallies[0, "greedy"] == Tally(2, 4, 3, 3, pytest.approx(1.0))
    assert figure.tallies[0, "greedy"].drift == 0.25
    rows = figure.plain()
    assert [(row["bucket"], row["drawn"], row["inside"]) for row in rows] == [
        ("0-1k", "greedy", 0.75),
        ("0-1k", "sampled", 1.0),
        ("4-16k", "greedy", 0.0),
    ]


def test_without_tokens_there_is_no_figure() -> None:
    assert Tally().drift is None and DriftFigure().plain() == [] and tally([], "greedy").tokens == 0
