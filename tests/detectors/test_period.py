"""Loop detector: against the definition, on real text, and the figures that users rely on."""

from __future__ import annotations

import random
import re
import sysconfig
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from detectors.period import ARGUMENTS, MAX_PERIOD, PROSE, PeriodDetector, Periods, Threshold, Thresholds

STRICT = Thresholds(Threshold(3, 64), Threshold(4, 80), Threshold(6, 128))


def feed(detector: PeriodDetector, tokens: list[int]) -> Iterator[Finding]:
    for position, token in enumerate(tokens):
        finding = detector.feed(position, token)
        if finding is not None:
            yield finding


def brute_force(tokens: list[int], thresholds: Thresholds) -> list[tuple[int, Grade, int, int]]:
    """(position, grade, period, covered), straight from the definition: every period, every token."""
    runs = [0] * (MAX_PERIOD + 1)
    found: list[tuple[int, Grade, int, int]] = []
    before: Grade | None = None
    for i, token in enumerate(tokens):
        best: tuple[Grade, int, int] | None = None
        for period in range(1, min(i, MAX_PERIOD) + 1):
            runs[period] = runs[period] + 1 if tokens[i - period] == token else 0
            grade = thresholds.reached(period, runs[period] + period) if runs[period] else None
            if grade is not None and (best is None or grade > best[0]):
                best = (grade, period, runs[period] + period)
        if best is not None and (before is None or best[0] > before):
            found.append((i, *best))
        before = best[0] if best is not None else None
    return found


def seen(tokens: list[int], thresholds: Thresholds) -> list[tuple[int, Grade, int, int]]:
    return [
        (f.position, f.grade, f.evidence["period"], f.evidence["covered"])
        for f in feed(PeriodDetector(thresholds), tokens)
    ]


@st.composite
def repetitive(draw: st.DrawFn) -> list[int]:
    """Loops, loops of loops, and loops broken by one token, over a small alphabet."""
    alphabet = st.integers(0, draw(st.sampled_from((1, 2, 5))))
    tokens: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        unit = draw(st.lists(alphabet, min_size=1, max_size=draw(st.sampled_from((2, 8, 40)))))
        tail = draw(st.integers(0, 150))
        if tokens and tail:
            unit = (tokens + unit)[-tail:]
        tokens += unit * draw(st.integers(1, 1 + 400 // len(unit)))
        tokens += draw(st.lists(alphabet, max_size=3))
    return tokens[:1200]


@settings(max_examples=60)
@given(repetitive())
def test_the_verdict_is_the_definition(tokens: list[int]) -> None:
    assert seen(tokens, STRICT) == brute_force(tokens, STRICT)


@pytest.mark.parametrize("period", [1, 2, 31, 32, 33, 64, 65, 100, 400, 1000, 1024, 1500, 2048])
@pytest.mark.parametrize("thresholds", [PROSE, ARGUMENTS], ids=["prose", "arguments"])
def test_a_loop_trips_exactly_when_its_threshold_is_reached(period: int, thresholds: Thresholds) -> None:
    draws = random.Random(period)
    lead = [draws.randrange(1000, 9000) for _ in range(200)]
    unit = draws.sample(range(10_000, 90_000), period)
    findings = list(feed(PeriodDetector(thresholds), lead + unit * (3000 // period + 7)))
    expected = {  # of two grades that are reached at the same token only the graver is told
        200 + max(mark.covered, mark.copies * period) - 1: grade
        for grade, mark in zip(Grade, (thresholds.suspect, thresholds.fallback, thresholds.abort), strict=True)
        if mark is not None
    }
    assert {f.position: f.grade for f in findings} == expected
    for finding in findings:
        assert finding.began == 200 + period  # the first copy may stay
        assert finding.evidence["period"] == period
        assert finding.evidence["unit"] == unit[:64]


@pytest.mark.parametrize("first", range(8))
def test_every_period_at_any_phase_of_the_search(first: int) -> None:
    """Found on the token, whatever lies between the loop's start and the next search."""
    for period in range(1 + first, MAX_PERIOD + 1, 61):
        draws = random.Random(period)
        lead = [draws.randrange(2) for _ in range(first)]
        unit = draws.sample(range(10_000), period)
        expected = {
            first + max(mark.covered, mark.copies * period) - 1: grade
            for grade, mark in zip(Grade, (STRICT.suspect, STRICT.fallback, STRICT.abort), strict=True)
            if mark is not None
        }
        found = feed(PeriodDetector(STRICT), lead + unit * (6 + 130 // period))
        assert {f.position: f.grade for f in found} == expected, period


def test_long_units_of_few_symbols_are_found_as_defined() -> None:
    """Most short ends of such a unit occur in it again and again; only the long ones tell its period."""
    for seed in range(6):
        draws = random.Random(seed)
        unit = [int(draws.random() < 0.1) for _ in range(draws.choice((100, 150, 260, 330)))]
        tokens = [draws.randrange(2) for _ in range(30)] + unit * 5 + [1, 1] + unit[:80] * 3
        assert seen(tokens[:1800], STRICT) == brute_force(tokens[:1800], STRICT)


def test_lengths_searched_for_are_close_enough_to_be_exact() -> None:
    """The proof in the module's docstring wants K < 1.5 p for some K >= p, for every period p."""
    lengths = [length for length, _ in Periods()._levels]
    assert lengths[-1] == MAX_PERIOD
    assert all(later <= 1.5 * earlier for earlier, later in pairwise(lengths))
    assert all(stride <= max(8, length // 8) for length, stride in Periods()._levels)


@pytest.mark.parametrize(
    "tokens",
    [
        [1] * 9000,
        ([1] * 511 + [2]) * 18,
        ([1] * MAX_PERIOD + [2]) * 9,
        [bin(i).count("1") & 1 for i in range(9000)],
        (([1] * 16 + [2]) * 30 + [3]) * 18,
    ],
    ids=["one", "nearly one", "beyond the limit", "no cube", "nested"],
)
def test_hostile_text_keeps_few_candidates_and_no_more_text(tokens: list[int]) -> None:
    periods, most = Periods(), 0
    for token in tokens:
        most = max(most, len(periods.push(token)))
    assert most <= len(periods._levels)
    assert len(periods._tail) <= 4 * MAX_PERIOD + 600


def test_a_grade_may_be_left_out() -> None:
    only = Thresholds(None, None, Threshold(6, 200))
    assert [f.grade for f in feed(PeriodDetector(only), [5] * 300)] == [Grade.ABORT]


def test_ids_beyond_unicode_are_tokens_too() -> None:
    assert [f.grade for f in feed(PeriodDetector(), [0x2FFFFF, 0xD800] * 60)] == [Grade.SUSPECT]


def test_a_period_beyond_the_limit_is_not_seen() -> None:
    unit = list(range(MAX_PERIOD + 1))
    assert seen(unit * 12, PROSE) == []


def test_a_smaller_loop_at_the_end_of_a_larger_one_is_reported_by_its_own_period() -> None:
    tokens = (list(range(100, 150)) + [7] * 10) * 4 + [7] * 300
    assert seen(tokens, PROSE) == brute_force(tokens, PROSE)
    assert [(grade, period) for _, grade, period, _ in seen(tokens, PROSE)][-1] == (Grade.FALLBACK, 1)


def test_the_grade_ends_with_the_loop() -> None:
    detector = PeriodDetector()
    assert [f.grade for f in feed(detector, [5] * 100)] == [Grade.SUSPECT]
    assert detector.grade is Grade.SUSPECT
    detector.feed(100, 6)
    assert detector.grade is None


def test_reset_forgets_everything() -> None:
    detector = PeriodDetector()
    list(feed(detector, [5] * 200))
    detector.reset()
    assert detector.grade is None
    assert [f.position for f in feed(detector, [5] * 100)] == [95]


def test_one_token_of_difference_per_copy_is_no_exact_loop() -> None:
    tokens = [token for i in range(200) for token in (*range(20), 1000 + i)]
    assert seen(tokens, PROSE) == []


def test_memory_is_bounded() -> None:
    detector = PeriodDetector()
    draws = random.Random(1)
    for position in range(12_000):
        detector.feed(position, draws.randrange(1 << 20))
    assert len(detector._periods._tail) <= 4 * MAX_PERIOD + 600
    assert not detector._periods.runs


def test_a_threshold_too_low_to_be_exact_is_refused() -> None:
    with pytest.raises(ValueError, match="3 copies"):
        Threshold(2, 96)


def test_source_code_of_the_standard_library_is_no_loop() -> None:
    """As text: every 12th file, cut into words, numbers and signs; data tables are what may be flagged."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[::12]
    flagged: dict[str, Grade] = {}
    total = 0
    for file in files:
        pieces = re.findall(r"\w+|\n[ ]*|[^\w\s]", file.read_text(encoding="utf-8", errors="replace"))[:6000]
        total += len(pieces)
        for finding in feed(PeriodDetector(), [hash(piece) & 0xFFFFF for piece in pieces]):
            flagged[file.name] = max(finding.grade, flagged.get(file.name, finding.grade))
    assert total > 20_000
    assert flagged == {}
