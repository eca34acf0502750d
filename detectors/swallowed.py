"""Tokens that an upstream generates without saying anything: its parser has lost the thread, or is held by a loop.

A server that turns markup into calls itself shows nothing of `<tool_call><tool_call>...`; only the ids of the tokens
tell that it goes on (vLLM sends them for swallowed tokens too, where they are asked for).

Must not: take a call that is held until it is complete for a fault: such calls end.
Invariant: what is said begins the count anew; the verdict is a function of the ids since then.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.finding import Finding, Grade


@dataclass(frozen=True, slots=True)
class SwallowedSettings:
    """Tokens without anything said, of upstreams that tell channels apart themselves."""

    tokens: int = 1024
    """Of any kind. Servers keep arguments that are no text back until they are complete: some hundreds are common."""

    same: int = 24
    """The same one in a row; no markup and no value is made of that."""

    def __post_init__(self) -> None:
        if not 4 <= self.same <= self.tokens:
            raise ValueError("same: must be 4 tokens or more, and tokens no fewer than same")


class Swallowed:
    """Fed with every token of a response."""

    def __init__(self, settings: SwallowedSettings = SwallowedSettings()) -> None:
        self._settings = settings
        self._count, self._began = 0, 0
        self._id, self._run = -1, 0
        self._told = False

    def said(self) -> None:
        """Something came through."""
        self._count = self._run = 0
        self._told = False

    def feed(self, position: int, token: int, channel: str) -> Finding | None:
        """A token that says nothing; answers once until something is said."""
        if not self._count:
            self._began = position
        self._count += 1
        self._run = self._run + 1 if token == self._id and self._run else 1
        self._id = token
        if self._told or (self._run < self._settings.same and self._count < self._settings.tokens):
            return None
        self._told = True
        same = self._run >= self._settings.same
        reason = "one token repeats and nothing is said" if same else "tokens are generated and nothing is said"
        evidence = {"tokens": self._count, "copies": self._run}
        return Finding("lane.swallowed", Grade.FALLBACK, channel, position, self._began, reason, evidence)
