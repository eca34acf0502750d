"""Many incidents in few numbers.

Must not: read a store. Invariant: every incident counts once in each table, and sums are over what is recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from proxy.incidents.record import Record

TABLES = ("detector", "culprit", "mode", "outcome")


@dataclass(slots=True)
class Statistics:
    """first, last: when the first and the last were opened. tokens_rewound: thrown away. rewind_ms: of each rewind.

    mode: before and after. outcome: also `open` and `died`.
    """

    incidents: int = 0
    first: str = ""
    last: str = ""
    tokens_rewound: int = 0
    rewind_ms: list[float] = field(default_factory=list)
    detector: Counter[str] = field(default_factory=Counter)
    culprit: Counter[str] = field(default_factory=Counter)
    mode: Counter[str] = field(default_factory=Counter)
    outcome: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        opened, closed = record.opened, record.closed or {}
        self.incidents += 1
        self.first = min(self.first or record.opened_at, record.opened_at)
        self.last = max(self.last, record.opened_at)
        self.tokens_rewound += int(opened.get("tokens_rewound") or 0)
        if opened.get("action") == "rewind" and closed:
            self.rewind_ms.append(float(closed.get("milliseconds") or 0))
        self.detector[str(opened.get("detector"))] += 1
        self.culprit[record.culprit or "not judged"] += 1
        self.mode[f"{opened.get('mode_before')} -> {opened.get('mode_after')}"] += 1
        self.outcome[record.state] += 1

    def plain(self) -> dict[str, Any]:
        """JSON data; tables with the most frequent first."""
        values = asdict(self)
        del values["rewind_ms"]
        for name in TABLES:
            values[name] = dict(getattr(self, name).most_common())
        cost = {"p50": percentile(self.rewind_ms, 50), "p90": percentile(self.rewind_ms, 90)}
        return {**values, "rewinds": len(self.rewind_ms), "rewind_ms": cost}


def statistics(records: Iterable[Record]) -> Statistics:
    """Of all of them."""
    counted = Statistics()
    for record in records:
        counted.add(record)
    return counted


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The smallest value that `percent` % of the values do not exceed; None of no values."""
    if not values:
        return None
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]
