"""Tool calls by context length: is the share of valid ones lower here than this model should manage?

Must not: blame the engine; models decay with context by themselves, so this asks for attention, no more.
Invariant: only the newest calls of one bucket are judged together; memory is bounded by buckets times that number.

With the prior Beta(1, 1), v valid and i invalid calls give the posterior Beta(1 + v, 1 + i) of the rate. For whole
numbers P(rate < x) is a binomial tail: P(at least 1 + v of v + i + 1 trials succeed at x).
"""

from __future__ import annotations

import math
from collections import deque

from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade


class ToolValidity:
    """Lives as long as the process; one window per (mode, context bucket). It speaks once, until the rate recovers."""

    def __init__(self, settings: DriftSettings = DEFAULT) -> None:
        self._settings = settings
        self._calls: dict[tuple[str, int], deque[bool]] = {}
        self._low: set[tuple[str, int]] = set()

    def feed(self, position: int, mode: str, context: int, valid: bool) -> Finding | None:
        """Takes a judged call. position: its last token in the response; mode: as written, `mtp/full`."""
        s = self._settings
        key = mode, s.bucket(context)
        calls = self._calls.setdefault(key, deque(maxlen=s.validity_calls))
        calls.append(valid)
        bad = calls.count(False)
        floor = s.validity_baseline - s.validity_drop
        certainty = probability_below(floor, len(calls) - bad, bad)
        if certainty <= s.validity_certainty:
            if certainty < 0.5:
                self._low.discard(key)
            return None
        if key in self._low:
            return None
        self._low.add(key)
        evidence = {"mode": mode, "bucket": key[1], "calls": len(calls), "invalid": bad, "certainty": certainty}
        reason = "tool calls are less often valid at this context length"
        return Finding("drift.tool_validity", Grade.SUSPECT, "engine", position, position, reason, evidence)


def probability_below(rate: float, valid: int, invalid: int) -> float:
    """Posterior probability that the true rate of valid calls is below `rate`, 0 < rate < 1."""
    trials, odds = valid + invalid + 1, math.log(rate) - math.log1p(-rate)
    base = trials * math.log1p(-rate) + math.lgamma(trials + 1)
    terms = (
        math.exp(base + k * odds - math.lgamma(k + 1) - math.lgamma(trials - k + 1))
        for k in range(valid + 1, trials + 1)
    )
    return min(math.fsum(terms), 1.0)
