"""Stalls: a step takes far longer than this response's own steps did.

Must not: look at a clock, or count time in which nobody asked for a step (queue, prefill, a client that reads slowly).
Invariant: the limits never fall below their floors, and one slow step does not raise them by more than its share.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.finding import Finding, Grade


@dataclass(frozen=True, slots=True)
class StallSettings:
    """Steps that are late, and steps that are given up as lost; against the stream's own usual step."""

    factor: float = 20.0
    """Usual steps until a step is late. Steps differ by right: an audit recomputes its rows, and a forward is shared
    with other responses."""

    floor_s: float = 30.0
    """Seconds that are never late: between two steps another prompt's chunk may run, or another response may be rebuilt
    from its prompt."""

    first_s: float = 60.0
    """Seconds, before there is a usual step."""

    lost_factor: float = 120.0
    lost_floor_s: float = 300.0
    lost_first_s: float = 600.0
    """The same for giving up. A client that gets keep-alives waits for as long as we do."""

    share: float = 0.05
    """Weight of the newest step in the usual one, an exponential average."""

    def __post_init__(self) -> None:
        for name in ("factor", "floor_s", "first_s", "lost_factor", "lost_floor_s", "lost_first_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, not {getattr(self, name):g}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share: must be above 0 and at most 1, not {self.share:g}")


class StallDetector:
    """One response. `late_s`, `lost_s`: how long the next step may take until it is seen, and until it is given up."""

    def __init__(self, settings: StallSettings = StallSettings()) -> None:
        self._settings = settings
        self._usual: float | None = None

    @property
    def usual_s(self) -> float | None:
        """What a step of this response takes, None before there was one."""
        return self._usual

    @property
    def late_s(self) -> float:
        settings = self._settings
        return settings.first_s if self._usual is None else max(settings.floor_s, settings.factor * self._usual)

    @property
    def lost_s(self) -> float:
        settings = self._settings
        if self._usual is None:
            return settings.lost_first_s
        return max(settings.lost_floor_s, settings.lost_factor * self._usual)

    def stepped(self, seconds: float) -> None:
        """A step came after `seconds`; one that was late counts as just in time, so that a stall teaches nothing."""
        seconds = min(max(seconds, 0.0), self.late_s)
        share = self._settings.share
        self._usual = seconds if self._usual is None else (1 - share) * self._usual + share * seconds

    def waiting(self, seconds: float, position: int) -> Finding | None:
        """Judges a step that was asked for `seconds` ago and has not come. position: the token that is awaited."""
        grade = Grade.ABORT if seconds >= self.lost_s else Grade.FALLBACK if seconds >= self.late_s else None
        if grade is None:
            return None
        usual = None if self._usual is None else round(self._usual, 6)
        evidence = {"waited_s": round(seconds, 3), "usual_s": usual}
        reason = "a step does not come" if grade is Grade.ABORT else "a step is late"
        return Finding("stall.step", grade, "engine", position, position, reason, evidence)


def engine_finding(position: int, why: str) -> Finding:
    """The engine says itself that no token will come. position: the token that is awaited; why: `died` or `stuck`."""
    reason = "the engine's worker has died" if why == "died" else "the engine does not return"
    return Finding("stall.engine", Grade.ABORT, "engine", position, position, reason, {"engine": why})
