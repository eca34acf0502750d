"""Second turns: the warm one reuses the conversation, the cold one does not, and both are the same turn."""

from __future__ import annotations

import pytest

from engine.bench import reuse as reusing
from engine.bench.reuse import NAME, Reuse, report, reuse
from engine.engine import Engine


def test_the_warm_turn_reuses_the_first_one(embedded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reusing, "MOST_TOKENS", 900)
    lines: list[str] = []
    result = reuse(embedded, 1, lines.append)
    assert 600 < result.prompt <= 900 - reusing.REPLY
    assert result.cached > result.prompt / 2
    assert len(result.cold) == len(result.warm) == len(lines) == 1
    assert len(embedded.prefixes) == 0


def test_without_kept_sequences_nothing_is_reused(embedded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: a store that forgets."""
    monkeypatch.setattr(reusing, "MOST_TOKENS", 700)
    monkeypatch.setattr(embedded.prefixes, "capacity", 0)
    assert reuse(embedded, 1, lambda line: None).cached == 0


def test_the_bar_is_a_tenth() -> None:
    table, bar = report(Reuse((1.0, 2.0, 1.0), (0.1, 0.1, 0.5), 4000, 3900))
    assert (bar.name, bar.holds, bar.measured) == (NAME, True, pytest.approx(10.0))
    assert [row[2] for row in table.rows] == [0, 3900]
    assert not report(Reuse((1.0,), (0.11,), 1, 1))[1].holds
