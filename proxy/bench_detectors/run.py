"""Puts the sections together.

Must not: measure.
Invariant: every section's bars and tables are in the report, in order.
"""

from __future__ import annotations

import platform

from proxy.bench_detectors import validator
from proxy.bench_report import Bar, Report


def measure() -> Report:
    """Measures every bar (seconds)."""
    bars = tuple(Bar.at_most(limit.name, limit.most, limit.measure(), limit.unit) for limit in validator.limits())
    settings = {"python": platform.python_version(), "machine": platform.machine(), "rounds": validator.ROUNDS}
    return Report(bench="detectors", settings=settings, tables=(), bars=bars)
