"""The acceptance rule by a table and by its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.verify import accepted_run

TOKENS = st.lists(st.integers(0, 2), max_size=8)


@pytest.mark.parametrize(
    ("ids", "drafts", "accepted"),
    [
        ([4], [], 0),
        ([4, 5, 6], [4, 5], 2),
        ([4, 5, 6], [4, 6], 1),
        ([4, 5, 6], [5, 5], 0),
        ([4, 5, 6], [5, 4], 0),
        ([4, 5, 6, 7, 8], [4, 5], 2),
        ([4, 4, 4, 4], [4, 4, 4], 3),
    ],
)
def test_table(ids: list[int], drafts: list[int], accepted: int) -> None:
    assert accepted_run(ids, drafts) == accepted


@given(TOKENS, TOKENS)
def test_everything_before_is_equal_and_the_next_is_not(ids: list[int], drafts: list[int]) -> None:
    if len(ids) <= len(drafts):
        with pytest.raises(ValueError, match=r"^ids: "):
            accepted_run(ids, drafts)
        return
    accepted = accepted_run(ids, drafts)
    assert ids[:accepted] == drafts[:accepted]
    assert accepted == len(drafts) or ids[accepted] != drafts[accepted]
