"""Whether something grows, told from samples that vary; and curves for people.

Must not: know what is measured. Invariant: a verdict depends on the samples at rest alone.

The rule: after the first third (caches fill up, the allocator finds its size), the Theil-Sen slope (median of the
slopes of all pairs, which single outliers do not move) over the rest of the run must add less than a share of the
median. The share is more than a run without a leak was seen to vary by; a leak adds the same with each request and
passes any share in time. Python objects are counted in blocks, where nothing blurs them, and have a smaller share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import median

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Growth:
    """median: of the samples after the warm-up. added: by the slope, from the first of them to the last."""

    median: float
    added: float
    hours: float

    @property
    def share(self) -> float:
        return self.added / self.median if self.median else 0.0

    @property
    def per_hour(self) -> float:
        return self.added / self.hours if self.hours else 0.0


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen: the median of the slopes between all pairs of points."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] != a[0]]
    return median(slopes) if slopes else 0.0


def growth(points: Sequence[tuple[float, float]], warm_up: float = 1 / 3) -> Growth:
    """points: (seconds, value), in order of time. warm_up: share of the points that is left out."""
    used = points[int(len(points) * warm_up) :]
    span = used[-1][0] - used[0][0]
    return Growth(median(value for _, value in used), slope(used) * span, span / 3600)


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """The means of equal parts, from the least to the most."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(part) / len(part) for a, b in pairwise(edges) if (part := values[a:b])]
    low, high = min(means), max(means)
    return "".join(BARS[int((mean - low) / ((high - low) or 1) * (len(BARS) - 1))] for mean in means)
