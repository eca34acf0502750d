"""Made loops are what they are called."""

from __future__ import annotations

import pytest

from proxy.bench.detectors.synthetic import KINDS, LEAD, LOOP_TOKENS, VARIANTS, holds, stream


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("period", [1, 7, 55])
def test_a_stream_is_long_enough_and_always_the_same(kind: str, period: int) -> None:
    tokens = stream(kind, period, 3)
    assert LEAD + LOOP_TOKENS <= len(tokens) <= LEAD + LOOP_TOKENS + 40 * period
    assert tokens == stream(kind, period, 3) != stream(kind, period, 4)
    assert len({token: text for token, text in tokens}) == len(set(tokens))  # an id has one text


def test_exact_loops_have_their_period_and_no_smaller_lead() -> None:
    tokens = [token for token, _ in stream("exact", 55, 1)]
    loop = tokens[LEAD : LEAD + LOOP_TOKENS]
    assert loop[55:] == loop[:-55]
    assert len(set(tokens[:LEAD])) > 80


def test_counters_count() -> None:
    text = "".join(text for _, text in stream("counter", 5, 2)[LEAD:])
    assert "998" in text or "47" in text or "3" in text
    assert len(set(text)) > 10


@pytest.mark.parametrize(("kind", "low", "high"), [("substitution 1 %", 0.002, 0.03), ("substitution 5 %", 0.03, 0.08)])
def test_as_much_is_changed_as_the_name_says(kind: str, low: float, high: float) -> None:
    loop = [token for token, _ in stream(kind, 50, 1)][LEAD:]
    columns = [loop[i::50] for i in range(50)]
    changed = sum(len(column) - max(map(column.count, set(column))) for column in columns)
    assert low < changed / len(loop) < high


def test_periods_without_room_for_four_copies_of_everything_are_left_out() -> None:
    assert holds("exact", 400)
    assert holds("alternation", 256)
    assert not holds("alternation", 257)
    assert not holds("paraphrase", LOOP_TOKENS // (4 * VARIANTS) + 1)
