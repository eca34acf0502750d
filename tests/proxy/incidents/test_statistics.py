"""Counts and percentiles."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from proxy.incidents import Record
from proxy.incidents.statistics import percentile, statistics
from tests.proxy.incidents.samples import CLOSURE, INCIDENT, JUDGEMENT


@pytest.mark.parametrize(
    ("values", "percent", "answer"),
    [([], 50, None), ([3.0], 50, 3.0), ([4.0, 1.0, 3.0, 2.0], 50, 2.0), (list(range(1, 11)), 90, 9), ([1, 2], 100, 2)],
)
def test_percentiles_are_values_that_occur(values: list[float], percent: int, answer: float | None) -> None:
    assert percentile(values, percent) == answer


def test_every_incident_counts_once() -> None:
    opened, closed = asdict(INCIDENT), asdict(CLOSURE)
    ended = {**opened, "action": "end", "tokens_rewound": 0, "detector": "loop.period", "mode_before": "plain"}
    records = [
        Record("inc_1", "2026-01-03", opened, "2026", closed, "2026", asdict(JUDGEMENT)),
        Record("inc_2", "2026-01-01", opened, "2026", asdict(replace(CLOSURE, milliseconds=10.0))),
        Record("inc_3", "2026-01-02", ended, "2026", asdict(replace(CLOSURE, outcome="ended", culprit="model"))),
        Record("inc_4", "2026-01-02", opened, died=True),
    ]
    plain = statistics(records).plain()
    assert plain == {
        "incidents": 4,
        "first": "2026-01-01",
        "last": "2026-01-03",
        "tokens_rewound": 51,
        "rewinds": 2,
        "rewind_ms": {"p50": 2.0, "p90": 10.0},
        "detector": {"tool.schema": 3, "loop.period": 1},
        "culprit": {"kv": 1, "speculation": 1, "model": 1, "not judged": 1},
        "mode": {"mtp/full -> plain": 3, "plain -> plain": 1},
        "outcome": {"recovered": 2, "ended": 1, "died": 1},
    }
    json.dumps(plain)


def test_none_at_all() -> None:
    assert statistics([]).plain()["rewind_ms"] == {"p50": None, "p90": None}
