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

    at_end: int = 16
    """Behind text or thinking, at the end of a response. The tags of thinking and of turns are a few."""

    same: int = 24
    """The same one in a row; no markup and no value is made of that."""

    def __post_init__(self) -> None:
        if not 4 <= min(self.same, self.at_end) <= max(self.same, self.at_end) <= self.tokens:
            raise ValueError("same, at_end: must be 4 tokens or more, and tokens no fewer than those")


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
        same = self._run >= self._settings.same
        return self._tell(position, channel, "one token repeats" if same else "tokens are generated")

    def finish(self, position: int, channel: str) -> Finding | None:
        """The response is over, and its last tokens but those of a call said nothing."""
        if self._told or self._count < self._settings.at_end or channel.startswith("tool:"):
            return None
        return self._tell(position, channel, "it ends")

    def _tell(self, position: int, channel: str, what: str) -> Finding:
        self._told = True
        evidence = {"tokens": self._count, "copies": self._run}
        reason = f"{what} and nothing is said"
        return Finding("lane.swallowed", Grade.FALLBACK, channel, position, self._began, reason, evidence)
