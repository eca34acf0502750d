"""When a server that refuses says one may ask again.

Must not: believe more than MOST_S, or a time of day: its clock is not ours.
Invariant: a finite number of seconds from 0 to MOST_S, or None.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_S = 300.0
"""A client that waits longer has given up."""


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, of `retry-after-ms` or else `retry-after`; None where neither is a number."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            told = float(headers.get(name, "")[:32]) * unit
        except ValueError:
            continue
        if told >= 0:  # not so for "nan"
            return min(told, MOST_S)
    return None
