"""Legitimate text is counted truly, and some of it is fed here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from detectors.finding import Grade
from proxy.bench_detectors import corpus, false_alarms
from proxy.bench_detectors.false_alarms import Count, corpus_bars, corpus_table, count_traps, traps_table, wilson
from proxy.bench_detectors.tokens import pieces


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
    assert corpus_table({"x": count}).rows[0][:2] == ("x", 2)
    assert [bar.holds for bar in corpus_bars({"x": count})] == [False, False]
    assert corpus_bars({"arguments": Count()})[0].target == "<= 0.3 % of documents"


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


def test_some_of_the_standard_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(make: object, count: int) -> list[str]:
        documents: Iterator[str] = make(1 << 30)  # type: ignore[operator]
        return [next(documents)[:20_000] for _ in range(count)]

    sources, prose = some(corpus.sources, 24), some(corpus.docstrings, 12)
    monkeypatch.setattr(corpus, "sources", lambda share: iter(sources))
    monkeypatch.setattr(corpus, "prose", lambda share: iter(prose))
    counts = false_alarms.count_corpus(1)
    assert {name: count.documents for name, count in counts.items() if "embedded" not in name} == {
        "prose": 12,
        "code, fenced": 24,
        "code, bare": 24,
        "arguments": 24,
    }
    assert [bar.name for bar in corpus_bars(counts) if not bar.holds] == []
