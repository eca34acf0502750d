"""What happened between the agent and the model: turns, calls, results, and the numbers that came with them.

Must not: know HTTP or how anything is shown.
Invariant: a transcript holds what the client received, nothing that it worked out itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call as received. `arguments` is the JSON text."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """Raises ValueError if the arguments are not a JSON object."""
        value = json.loads(self.arguments)
        if not isinstance(value, dict):
            raise ValueError("the arguments are not an object")
        return value


@dataclass(slots=True)
class Turn:
    """One response of the model.

    seconds: from sending the request to the end of the stream; first_token_s: to the first delta.
    usage, timings: as the server reports them (OpenAI's and llama.cpp's names); empty if it does not.
    token_ids, mode, incidents: specguard's extension; empty with other servers.
    """

    text: str = ""
    thinking: str = ""
    calls: list[Call] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    finish_reason: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)
    token_ids: list[int] = field(default_factory=list)
    mode: str = ""
    incidents: list[str] = field(default_factory=list)
    seconds: float = 0.0
    first_token_s: float = 0.0

    @property
    def tokens(self) -> int:
        return int(self.usage.get("completion_tokens", 0) or len(self.token_ids))

    @property
    def tokens_per_second(self) -> float:
        """Decode speed as the server measured it, else seen from here; 0.0 if unknown."""
        milliseconds = float(self.timings.get("predicted_ms", 0.0))
        if milliseconds > 0:
            return 1000.0 * float(self.timings.get("predicted_n", self.tokens)) / milliseconds
        streaming = self.seconds - self.first_token_s
        return self.tokens / streaming if streaming > 0 else 0.0

    @property
    def drafted(self) -> int:
        return int(self.timings.get("draft_n", 0))

    @property
    def accepted(self) -> int:
        return int(self.timings.get("draft_n_accepted", 0))


@dataclass(slots=True)
class Transcript:
    """All turns of one task. finished: the model ended by itself; tests_green: whether the tests pass now."""

    turns: list[Turn] = field(default_factory=list)
    finished: bool = False
    tests_green: bool | None = None

    @property
    def token_ids(self) -> list[list[int]]:
        return [turn.token_ids for turn in self.turns]

    @property
    def incidents(self) -> list[str]:
        return [incident for turn in self.turns for incident in turn.incidents]

    @property
    def tokens(self) -> int:
        return sum(turn.tokens for turn in self.turns)

    @property
    def seconds(self) -> float:
        return sum(turn.seconds for turn in self.turns)
