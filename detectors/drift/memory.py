"""What the responses of one process have shown together; one response rarely has enough samples for a verdict.

Must not: hold anything of a text.
Invariant: nothing here ends with a response or a rewind, and each part keeps codecs, modes and context lengths apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from detectors.drift.divergence import ShadowDivergence
from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.drift.sprt import ShadowAgreement
from detectors.drift.tool_validity import ToolValidity


@dataclass(slots=True)
class DriftMemory:
    """agreement, divergence: what clean recomputations gave; validity: of tool calls."""

    settings: DriftSettings = DEFAULT
    agreement: ShadowAgreement = field(init=False)
    divergence: ShadowDivergence = field(init=False)
    validity: ToolValidity = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = ShadowAgreement(self.settings)
        self.divergence = ShadowDivergence(self.settings)
        self.validity = ToolValidity(self.settings)
