"""Tokens that say nothing: how many are too many, and that what is said begins the count anew."""

from __future__ import annotations

import pytest

from detectors.finding import Finding, Grade
from detectors.swallowed import Swallowed, SwallowedSettings


def fed(ids: list[int], watch: Swallowed | None = None) -> list[Finding]:
    watch = watch or Swallowed()
    return [found for at, token in enumerate(ids, 5) if (found := watch.feed(at, token, "text")) is not None]


def test_one_token_over_and_over() -> None:
    assert fed([7] * 23) == []
    (found,) = fed([7] * 60)
    assert (found.detector, found.grade) == ("lane.swallowed", Grade.FALLBACK)
    assert (found.position, found.began) == (5 + 23, 5)
    assert found.evidence == {"tokens": 24, "copies": 24}


def test_any_tokens() -> None:
    assert fed(list(range(1023))) == []
    (found,) = fed(list(range(3000)))
    assert found.evidence == {"tokens": 1024, "copies": 1}


def test_what_is_said_begins_the_count_anew() -> None:
    watch = Swallowed()
    fed([7] * 23, watch)
    watch.said()
    assert fed([7] * 23, watch) == []
    assert len(fed([7] * 1, watch)) == 1


def test_told_once_until_something_is_said() -> None:
    watch = Swallowed()
    assert len(fed([7] * 500, watch)) == 1
    watch.said()
    assert len(fed([7] * 500, watch)) == 1


def test_the_end_of_a_response_that_says_nothing() -> None:
    watch = Swallowed()
    fed(list(range(15)), watch)
    assert watch.finish(20, "text") is None
    fed([99], watch)
    assert watch.finish(21, "tool:0") is None
    found = watch.finish(21, "text")
    assert found is not None
    assert found.began == 5
    assert watch.finish(21, "text") is None


@pytest.mark.parametrize("wrong", [{"same": 2}, {"at_end": 3}, {"tokens": 10}])
def test_numbers_that_cannot_work(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="same, at_end"):
        SwallowedSettings(**wrong)
