"""Who is asked for drafts, for how many, and who hears of the outcome; whole turns are in test_turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from engine.drafting import SHORT, Draft, Drafting
from engine.pacing import Costs, Pacer
from engine.sequence import Sequence

ROWS = 8


class Guess:
    """Always the same proposal; records what it was told."""

    def __init__(self, name: str, tokens: list[int]) -> None:
        self.name, self.tokens, self.told = name, tokens, list[tuple[int, int]]()
        self.asked = list[int]()

    def propose(self, limit: int) -> list[int]:
        self.asked.append(limit)
        return self.tokens

    def feedback(self, drafted: int, accepted: int) -> None:
        self.told.append((drafted, accepted))


def drafting(costs: Costs, **drafters: list[int]) -> tuple[Drafting, dict[str, Guess]]:
    guesses = {name.replace("_", "-"): Guess(name, tokens) for name, tokens in drafters.items()}
    model = SimpleNamespace(rows=ROWS)
    sequence = SimpleNamespace(drafters=guesses, pacer=Pacer(costs, ROWS - 1), tokens=[0] * 50, model=model)
    return Drafting(cast(Sequence, sequence)), guesses


@pytest.mark.parametrize("limit", [0, -1])
def test_nobody_is_asked_where_there_is_no_room(limit: int) -> None:
    made, guesses = drafting(Costs(1), ngram=[1, 2])
    assert made.ask("ngram", limit) == Draft("none", [])
    assert guesses["ngram"].asked == []


def test_no_more_than_a_step_can_verify() -> None:
    made, guesses = drafting(Costs(1), ngram=[1] * 40)
    assert made.ask("ngram", 40) == Draft("ngram", [1] * (ROWS - 1))
    assert made.ask("ngram", 3) == Draft("ngram", [1] * 3)
    assert guesses["ngram"].asked == [ROWS - 1, 3]


def test_only_those_of_the_setting_are_asked_and_any_name_is_one() -> None:
    made, guesses = drafting(Costs(1), ngram=[1], mtp=[2], fixed=[3])
    assert made.ask("none", 7) == Draft("none", [])
    assert made.ask("mtp", 7) == Draft("mtp", [2])
    assert made.ask("fixed", 7) == Draft("fixed", [3])
    assert made.ask("absent", 7) == Draft("none", [])
    assert guesses["ngram"].asked == []


def test_a_hint_stands_back_and_is_judged_all_the_same() -> None:
    made, guesses = drafting(Costs(1, 0, 0, 0), ngram=[], ngram_short=[5, 9], mtp=[5, 6, 7])
    draft = made.ask("mtp+ngram", 3)
    assert draft == Draft("mtp", [5, 6, 7])
    before = made._sequence.pacer.gain(SHORT, 2)
    assert made.judge(draft, 3, [5, 6, 7, 8]) is None
    assert guesses["mtp"].told == [(3, 3)]
    assert guesses[SHORT].told == []
    assert made._sequence.pacer.gain(SHORT, 2) != before


def test_a_hint_goes_first_where_nobody_promises_more() -> None:
    made, guesses = drafting(Costs(1, 0, 9, 9), ngram=[], ngram_short=[5, 9], mtp=[5, 6, 7])
    assert made.ask("mtp+ngram", 3) == Draft(SHORT, [5, 9])
    assert guesses["mtp"].asked == []


def test_a_draft_of_no_tokens_tells_nothing_and_a_death_is_told_once() -> None:
    made, guesses = drafting(Costs(1), ngram=[1] * 7)
    assert made.judge(Draft("ngram", []), 0, [4]) is None
    assert guesses["ngram"].told == []
    ends = [made.judge(made.ask("ngram", 7), 0, [4]) for _ in range(40) if made.ask("ngram", 7).tokens]
    assert [end for end in ends if end] == ["ngram"]
    assert ends[-1] == "ngram"
    assert made.ask("ngram", 7) == Draft("none", [])
