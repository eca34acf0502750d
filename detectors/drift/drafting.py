"""What acceptance tells: saturation as a witness for other detectors, a dead drafter as a matter of speed.

Must not: make a finding. Loops raise acceptance, a file that is written again does too, and hard text lowers it.
Invariant: nothing here says more than a number that the incident record shows, or a note for the metrics.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from detectors.drift.settings import DEFAULT, DriftSettings


@dataclass(frozen=True, slots=True)
class DeadDrafter:
    """A performance event, not a fault: drafts cost time and none is accepted. drafted: tokens in a row."""

    source: str
    drafted: int


class Saturation:
    """First drafts are nearly always accepted while the model has no doubt. Corroborates a loop, proves nothing."""

    def __init__(self, settings: DriftSettings = DEFAULT) -> None:
        self._settings = settings
        self._steps: deque[tuple[bool, float]] = deque(maxlen=settings.saturation_drafts)

    def feed(self, accepted: int, entropy: float) -> None:
        """Takes a verify step. accepted: drafts of it; entropy: mean over its tokens, nats."""
        self._steps.append((accepted > 0, entropy))

    @property
    def acceptance(self) -> float | None:
        """Share of accepted first drafts among the newest steps; None before there are enough."""
        if len(self._steps) < self._settings.saturation_drafts:
            return None
        return sum(hit for hit, _ in self._steps) / len(self._steps)

    @property
    def saturated(self) -> bool:
        """To be read beside a loop finding."""
        acceptance = self.acceptance
        if acceptance is None or acceptance < self._settings.saturation_acceptance:
            return False
        return sum(entropy for _, entropy in self._steps) / len(self._steps) < self._settings.saturation_entropy


class DraftersAlive:
    """Notices a drafter of which nothing is accepted any more, for engines that do not say so themselves."""

    def __init__(self, settings: DriftSettings = DEFAULT) -> None:
        self._limit = settings.dead_drafts
        self._misses: dict[str, int] = {}

    def feed(self, source: str, drafted: int, accepted: int) -> DeadDrafter | None:
        """Takes a step; speaks once per death, again only after something was accepted."""
        if not drafted:
            return None
        before = 0 if accepted else self._misses.get(source, 0)
        self._misses[source] = 0 if accepted else before + drafted
        if before < self._limit <= self._misses[source]:
            return DeadDrafter(source, self._misses[source])
        return None
