"""The vocabulary every detector speaks: a finding says what was seen, where it began, and how grave it is.

Must not: contain a user's or model's text in `reason` (it becomes a metrics label and a log field).
Invariant: positions are indices into the tokens generated in this response (0 = first generated token).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol


class Grade(IntEnum):
    """How grave a finding is; ordered, so that the gravest of several is their `max`."""

    SUSPECT = 1
    """Collect evidence and start holding; nothing is wrong yet."""
    FALLBACK = 2
    """Rewind to where it began and go on in a safer decode mode."""
    ABORT = 3
    """End the response; going on cannot help."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation that a policy has to decide about.

    detector: dotted name of who speaks, e.g. `loop.period`, `tool.schema`, `drift.audit`.
    channel: `thinking`, `text`, `tool:N` (Nth call of the response) or `engine`.
    position: index of the generated token at which the evidence was complete.
    began: index of the first generated token that can no longer be trusted; `began <= position`.
    reason: short, low-cardinality, without content.
    evidence: JSON-ready details for the incident record (may be redacted by the store).
    """

    detector: str
    grade: Grade
    channel: str
    position: int
    began: int
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


class TokenDetector(Protocol):
    """A detector fed with token ids of one channel, one at a time; O(1) amortised per token."""

    @property
    def grade(self) -> Grade | None:
        """How grave what goes on right now is, None when nothing does; text is held while it is not None."""

    def feed(self, position: int, token: int) -> Finding | None:
        """Takes the next token of the channel, `position` being its index in the response."""

    def reset(self) -> None:
        """Forgets everything, as if newly made."""
