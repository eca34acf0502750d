"""One-token collapse: a response that is one and the same certain token from its first position on.

Must not: look beyond the beginning of a response (later repetition is the loop detectors' matter).
Invariant: it convicts at most once, and never about a beginning in which two tokens differ.

Seen with damaged caches at long context: the whole budget spent on `!` or `/`, id 0, from the first token (omlx 3777,
llama.cpp 23606). Either the model is certain of it, or all logits are equal and id 0 wins as the lowest.
"""

from __future__ import annotations

from detectors.drift.settings import DEFAULT, DriftSettings
from detectors.finding import Finding, Grade


class Collapse:
    """Fed with the tokens of one response."""

    def __init__(self, settings: DriftSettings = DEFAULT) -> None:
        self._settings = settings
        self._token: int | None = None
        self._open = True

    @property
    def is_open(self) -> bool:
        """The response may still be one and the same token."""
        return self._open

    def feed(self, position: int, token: int, top1_prob: float, margin: float, entropy: float) -> Finding | None:
        """Takes the next token with the model's own numbers (temperature 1). entropy in nats."""
        if not self._open:
            return None
        s = self._settings
        certain = top1_prob > s.collapse_top1 and entropy <= s.collapse_entropy
        flat = token == 0 and margin == 0.0
        first = position == 0
        if first:
            self._token = token
        if token != self._token or not (certain or flat):
            self._open = False
            return None
        if position == s.collapse_tokens - 1:
            self._open = False
            return self._finding(Grade.FALLBACK, position, token, top1_prob, "the response is one token repeated")
        if first and token == 0:
            return self._finding(Grade.SUSPECT, position, token, top1_prob, "the first token is id 0 and certain")
        return None

    @staticmethod
    def _finding(grade: Grade, position: int, token: int, top1_prob: float, reason: str) -> Finding:
        evidence = {"token": token, "top1_prob": top1_prob}
        return Finding("drift.collapse", grade, "engine", position, 0, reason, evidence)
