"""Legitimate text is counted truly, and some of it is fed here."""

from __future__ import annotations

import pytest

from detectors.finding import Grade
from proxy.bench.detectors.false_alarms import Count, count_traps, traps_table, wilson
from proxy.bench.detectors.tokens import pieces


def test_wilson_intervals() -> None:
    """Against values from tables of the score interval."""
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(5, 10) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_document_counts_once_with_its_gravest_grade() -> None:
    count = Count()
    count.add(pieces(" so we go on" * 600), "text")
    count.add(pieces("Nothing is said twice here."), "text")
    assert (count.documents, count.at_least(Grade.SUSPECT), count.at_least(Grade.ABORT)) == (2, 1, 1)
    assert count.percent(Grade.FALLBACK) == 50
    assert count.speakers == {"period": 1}
    assert count.chars == len(" so we go on" * 600) + len("Nothing is said twice here.")


def test_the_first_who_gives_the_gravest_grade_is_named() -> None:
    assert Count().add(pieces(" so we go on" * 100), "text") == ("period", "fallback", 255)
    assert Count().add(pieces(" so we go on" * 600), "text") == ("period", "abort", 1023)
    assert Count().add(pieces(" so we go on" * 30), "text") is None


def test_counts_are_summed() -> None:
    first, second = Count(), Count()
    first.add(pieces(" so we go on" * 600), "text")
    second.add(pieces(" so we go on" * 100), "text")
    second.merge(first)
    assert (second.documents, second.flagged) == (2, {Grade.ABORT: 1, Grade.FALLBACK: 1})
    assert second.speakers == {"period": 2} and second.tokens == 2800


def test_traps_in_fences_and_arguments_are_left_alone() -> None:
    counts = count_traps(seeds=3)
    for name, ways in counts.items():
        for way in ("fenced", "arguments"):
            assert ways[way].at_least(Grade.FALLBACK) == 0, (name, way)
    for name in (
        "SQL inserts",
        "Markdown table",
        "licence headers",
        "pytest output",
        "file rewritten",
        "numbered steps",
    ):
        assert counts[name]["bare"].at_least(Grade.FALLBACK) == 0, name
    assert len(traps_table(counts).rows) == len(counts)
