"""Stacked drafters: first proposal wins, everyone learns, only the proposer gets feedback."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from torch import Tensor

from engine.drafters.base import Drafter
from engine.drafters.stacked import StackedDrafter


class Scripted:
    """Proposes what it is told to and writes down every call."""

    def __init__(self, name: str, proposal: Sequence[int] = ()) -> None:
        self.name = name
        self.proposal = list(proposal)
        self.calls: list[tuple[object, ...]] = []

    def begin(self, tokens: Sequence[int]) -> None:
        self.calls.append(("begin", list(tokens)))

    def extend(self, tokens: Sequence[int], hidden: Tensor | None) -> None:
        self.calls.append(("extend", list(tokens), hidden))

    def propose(self, limit: int) -> list[int]:
        self.calls.append(("propose", limit))
        return self.proposal

    def feedback(self, drafted: int, accepted: int) -> None:
        self.calls.append(("feedback", drafted, accepted))

    def truncate(self, length: int) -> None:
        self.calls.append(("truncate", length))


def test_the_first_with_a_proposal_wins() -> None:
    ngram, mtp = Scripted("ngram"), Scripted("mtp", [4, 5])
    stacked: Drafter = StackedDrafter([ngram, mtp])
    assert isinstance(stacked, StackedDrafter)
    assert stacked.name == "mtp+ngram"
    assert (stacked.propose(7), stacked.source) == ([4, 5], "mtp")
    ngram.proposal = [1]
    mtp.calls.clear()
    assert (stacked.propose(7), stacked.source) == ([1], "ngram")
    assert mtp.calls == []


def test_feedback_reaches_only_the_proposer() -> None:
    ngram, mtp = Scripted("ngram"), Scripted("mtp", [4, 5])
    stacked = StackedDrafter([ngram, mtp])
    stacked.propose(7)
    stacked.feedback(2, 1)
    assert ("feedback", 2, 1) in mtp.calls
    assert ("feedback", 2, 1) not in ngram.calls


def test_nobody_gets_feedback_for_no_proposal() -> None:
    ngram = Scripted("ngram", [1])
    stacked = StackedDrafter([ngram])
    stacked.propose(7)
    ngram.proposal = []
    assert (stacked.propose(7), stacked.source) == ([], "none")
    stacked.feedback(1, 0)
    stacked.propose(7)
    stacked.truncate(0)
    stacked.feedback(1, 0)
    assert not [call for call in ngram.calls if call[0] == "feedback"]


def test_everybody_learns_and_rewinds() -> None:
    drafters = [Scripted("a"), Scripted("b", [1])]
    stacked = StackedDrafter(drafters, name="both")
    stacked.begin([1, 2])
    stacked.extend([3], None)
    stacked.truncate(1)
    for drafter in drafters:
        assert drafter.calls == [("begin", [1, 2]), ("extend", [3], None), ("truncate", 1)]
    assert stacked.name == "both"


def test_the_limit_holds_for_a_drafter_that_ignores_it() -> None:
    drafter = Scripted("a", [1, 2, 3])
    stacked = StackedDrafter([drafter])
    assert stacked.propose(2) == [1, 2]
    assert stacked.propose(0) == []


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_must_differ(names: list[str]) -> None:
    with pytest.raises(ValueError, match="drafters: "):
        StackedDrafter([Scripted(name) for name in names])
