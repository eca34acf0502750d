"""The n-gram drafter against its definition, over drawn token runs, rewinds and collisions."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.drafters.ngram import AGENT, HINT, PUBLISHED, NgramDrafter, NgramParams

TOKENS = st.lists(st.integers(0, 3), max_size=80)
RULES = st.builds(
    lambda n_match, n_min, more: NgramParams(n_match, n_min, n_min + more, slot_bits=16),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 12),
)
LIMITS = st.integers(0, 12)


def defined(history: list[int], params: NgramParams, limit: int) -> list[int]:
    """What follows the newest earlier place where the last n_match tokens stood, one token at a time."""
    if limit <= 0 or len(history) < params.n_match:
        return []
    text, drafts = list(history), []
    while len(drafts) < min(max(limit, params.n_min), params.n_max):
        window = text[-params.n_match :]
        ends = range(len(history) - 1, params.n_match - 1, -1)
        at = next((end for end in ends if history[end - params.n_match : end] == window), None)
        if at is None:
            break
        text.append(history[at])
        drafts.append(history[at])
    return drafts[:limit] if len(drafts) >= params.n_min else []


def drafter_of(history: list[int], params: NgramParams) -> NgramDrafter:
    drafter = NgramDrafter(params)
    drafter.begin(history)
    return drafter


class TestDefinition:
    @given(TOKENS, RULES, LIMITS)
    def test_proposes_what_the_definition_says(self, history: list[int], params: NgramParams, limit: int) -> None:
        assert drafter_of(history, params).propose(limit) == defined(history, params, limit)

    @given(TOKENS, RULES, st.lists(st.integers(0, 80), max_size=6))
    def test_how_the_history_arrives_does_not_matter(
        self, history: list[int], params: NgramParams, cuts: list[int]
    ) -> None:
        drafter = NgramDrafter(params)
        edges = [0, *sorted(min(cut, len(history)) for cut in cuts), len(history)]
        for start, end in pairwise(edges):
            drafter.extend(history[start:end], None)
            assert drafter.propose(7) == defined(history[:end], params, 7)

    def test_the_newest_follower_wins(self) -> None:
        params = NgramParams(2, 1, 1, slot_bits=10)
        assert drafter_of([1, 2, 7, 1, 2, 8, 1, 2], params).propose(4) == [8]

    def test_a_run_of_one_token_continues(self) -> None:
        assert drafter_of([5] * 10, AGENT).propose(7) == [5] * 7

    def test_proposing_changes_nothing(self) -> None:
        drafter = drafter_of([1, 2, 3, 4] * 6, AGENT)
        assert drafter.propose(7) == drafter.propose(7) == [1, 2, 3, 4, 1, 2, 3]

    def test_begin_forgets_the_past(self) -> None:
        drafter = drafter_of([1, 2, 3, 4] * 6, AGENT)
        drafter.begin([1, 2, 3, 4, 1, 2])
        assert drafter.propose(7) == []


class TestPresets:
    def test_published_numbers(self) -> None:
        assert (PUBLISHED.n_match, PUBLISHED.n_min, PUBLISHED.n_max) == (24, 48, 64)

    def test_published_needs_a_long_known_passage_and_then_honours_the_limit(self) -> None:
        passage = list(range(100, 180))
        assert drafter_of([*passage, 1, *passage[:24]], PUBLISHED).propose(7) == passage[24:31]
        assert drafter_of([*passage, 1, *passage[:24]], PUBLISHED).propose(99) == [
            *passage[24:],
            1,
            *passage[:7],
        ]
        short = passage[:60]
        assert drafter_of([2, *short], PUBLISHED).propose(7) == []
        assert drafter_of([*short, 1, *short[:24]], PUBLISHED).propose(7) != []
        assert drafter_of([*passage[:70], 1, 2, 3, *passage[1:23]], PUBLISHED).propose(7) == []

    def test_agent_sees_a_repeated_tool_call(self) -> None:
        call = [50, 51, 52, 53, 54, 55, 58, 59, 90, 91, 92, 56, 57]
        assert drafter_of([*call, 1, 2, 3, *call[:8]], AGENT).propose(7) == [90, 91, 92, 56, 57, 1, 2]
        assert drafter_of([*call, 1, 2, 3, *call[1:8]], AGENT).propose(7) == []

    def test_a_hint_needs_two_tokens(self) -> None:
        assert drafter_of([50, 51, 52, 53, 1, 50, 51], HINT).propose(3) == [52, 53, 1]
        assert drafter_of([50, 51, 52, 53, 1, 51], HINT).propose(3) == []

    @pytest.mark.parametrize(
        ("field", "values"),
        [
            ("n_match", {"n_match": 0}),
            ("n_min", {"n_min": 0}),
            ("n_min", {"n_min": 9}),
            ("slot_bits", {"slot_bits": 40}),
            ("rest", {"rest": -1}),
        ],
    )
    def test_the_error_names_the_field(self, field: str, values: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=f"^{field}: "):
            NgramParams(**{"n_match": 4, "n_min": 1, "n_max": 8, **values})


class TestRewind:
    @given(
        TOKENS,
        st.lists(st.tuples(st.integers(0, 80), TOKENS), max_size=4),
        RULES,
        st.sampled_from([3, 5, 16]),
    )
    @settings(max_examples=300)
    def test_truncated_equals_fresh(
        self, history: list[int], edits: list[tuple[int, list[int]]], params: NgramParams, slot_bits: int
    ) -> None:
        # 8 slots: collisions and emptied tables all the time
        params = NgramParams(params.n_match, params.n_min, params.n_max, slot_bits)
        drafter = drafter_of(history, params)
        known = list(history)
        for length, more in edits:
            drafter.truncate(length)
            known = known[:length]
            for rest in ([], more):
                drafter.extend(rest, None)
                known += rest
                fresh = drafter_of(known, params)
                assert drafter.propose(7) == fresh.propose(7)
                # not only here: whatever comes next is guessed alike
                assert drafter._table == fresh._table
                assert (drafter._hash, drafter._used) == (fresh._hash, fresh._used)

    def test_an_older_match_is_back(self) -> None:
        params = NgramParams(2, 1, 1, slot_bits=10)
        drafter = drafter_of([1, 2, 7, 1, 2], params)
        drafter.extend([8, 1, 2], None)
        assert drafter.propose(1) == [8]
        drafter.truncate(5)
        assert drafter.propose(1) == [7]

    def test_beyond_the_end_has_no_effect_and_negative_is_refused(self) -> None:
        drafter = drafter_of([5] * 10, AGENT)
        drafter.truncate(11)
        assert drafter.propose(2) == [5, 5]
        with pytest.raises(ValueError, match="length"):
            drafter.truncate(-1)


class TestCollisions:
    @given(st.lists(st.integers(0, 200), max_size=60), st.integers(1, 4))
    @settings(max_examples=200)
    def test_every_guess_follows_a_true_match(self, history: list[int], n_match: int) -> None:
        params = NgramParams(n_match, 1, 8, slot_bits=4)
        drafts = drafter_of(history, params).propose(8)
        text = history + drafts
        for index in range(len(history), len(text)):
            window = text[index - n_match : index + 1]
            assert any(history[at : at + n_match + 1] == window for at in range(len(history) - n_match))

    def test_a_full_table_is_emptied_and_learns_on(self) -> None:
        params = NgramParams(2, 1, 4, slot_bits=6)
        drafter = drafter_of(list(range(1000, 1040)), params)
        assert drafter._used <= 16
        drafter.extend([1, 2, 3, 1, 2], None)
        assert drafter.propose(1) == [3]


class TestFeedback:
    LOOP = (1, 2, 3, 4) * 6

    def test_rests_after_five_bad_rounds_then_drafts_again(self) -> None:
        drafter = drafter_of(list(self.LOOP), AGENT)
        for _ in range(4):
            drafter.feedback(8, 1)
        assert drafter.propose(7)
        drafter.feedback(8, 1)
        assert drafter.propose(7) == []
        drafter.extend(self.LOOP, None)
        assert drafter.propose(7) == []
        drafter.extend(self.LOOP, None)
        assert drafter.propose(7)

    def test_one_good_round_ends_the_streak(self) -> None:
        drafter = drafter_of(list(self.LOOP), AGENT)
        for accepted in (0, 0, 0, 0, 2, 0, 0, 0, 0):
            drafter.feedback(8, accepted)
        assert drafter.propose(7)

    def test_no_draft_is_no_bad_round(self) -> None:
        drafter = drafter_of(list(self.LOOP), AGENT)
        for _ in range(9):
            drafter.feedback(0, 0)
        assert drafter.propose(7)

    def test_a_rewind_forgets_it(self) -> None:
        drafter = drafter_of(list(self.LOOP), AGENT)
        for _ in range(5):
            drafter.feedback(8, 0)
        drafter.truncate(20)
        assert drafter.propose(7)
