"""What a trip says against the decode mode that it happened in: which half of the mode, and how much it weighs.

Must not: count what no mode can be blamed for: the model's own loops, a filter, a damaged kept prefix, a drafter whose
guesses are worthless, or a call that takes too long to write (both are a matter of speed and nothing else; a safer
mode is slower still).
Invariant: a trip that changed nothing, as every one does in observe mode, accuses nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.modes import PLAIN, DecodeMode

Axis = Literal["speculation", "kv", "unknown"]
"""The half of a mode that is accused; `unknown` = either."""

LIKELY = 1.0
UNPROVEN = 0.5
"""Leaving the mode helped, but nobody knows why: two halves were left at once."""
CERTAIN = float("inf")
PROOFS = frozenset({"drift.audit"})
"""Detectors that need no comparison: a step computed again had other bits."""
HARMLESS = frozenset({"drift.dead_drafter", "drafter.dead", "drift.tool_validity", "tool.held"})


@dataclass(frozen=True, slots=True)
class Accusation:
    """weight: CERTAIN opens a breaker by itself, others add up."""

    axis: Axis
    weight: float


def accuse(
    detector: str, action: str, mode: DecodeMode, culprit: str = "", certainty: str = "none", outcome: str = ""
) -> Accusation | None:
    """The accusation of one incident. mode: that it tripped in; culprit "": the response has not ended yet.

    A verdict that does not fit the mode (speculation in a mode without drafts) accuses nobody.
    """
    if mode == PLAIN or action in ("none", "start") or detector in HARMLESS:
        return None
    if detector in PROOFS and culprit in ("", "speculation") and mode.speculates:
        return Accusation("speculation", CERTAIN)
    weight = {"certain": CERTAIN, "likely": LIKELY}.get(certainty, UNPROVEN)
    match culprit:
        case "speculation" if mode.speculates:
            return Accusation("speculation", weight)
        case "kv" if mode.codec != "full":
            return Accusation("kv", weight)
        case "unknown" if outcome in ("recovered", "ended"):
            return Accusation("unknown", UNPROVEN)
    return None
