"""What a guarded session sends to a client, in the terms of no particular API; wire modules encode these.

Must not: carry anything that was not yet released by the guard.
Invariant: Started, then any number of ThinkingDelta | TextDelta | ToolCall, then exactly one Finished or Failed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "stop_sequence", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Started:
    """prompt_tokens: tokens of the rendered prompt; cached_tokens: how many of them came from prefix reuse."""

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token of the text with its log-probability, and the likeliest tokens in its place, best first. data: bytes."""

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """logprobs: of the tokens that this text completes, if the request asks for them."""

    text: str
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call that is valid against its schema. `arguments` is compact JSON text of an object.

    id: drawn anew for each call; APIs put a prefix of their own before it.
    """

    index: int
    name: str
    arguments: str
    id: str = field(default_factory=lambda: secrets.token_hex(12), compare=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. `discarded_tokens` were generated, and the client got others in their place: those that were thrown away
    by rewinds, and thoughts that a second attempt had again. They are not in completion_tokens. What is cut off at the
    end without anything in its place (a stop string, half a call) is: it has used up `max_tokens`.

    filtered_tokens: put by a constraint in place of what would have been sampled, discarded ones included.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    discarded_tokens: int = 0
    filtered_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """llama.cpp's names: milliseconds and token counts of prefill and decode, draft statistics, and the tokens of the
    prompt that came from a cache, which prompt_n leaves out."""

    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    draft_n: int = 0
    draft_n_accepted: int = 0
    cache_n: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """reason as OpenAI names it; stop_sequence is the matched string, mode the decode mode at the end. drafts: tokens
    (drafted, accepted) by drafter; by_position: the same of each first draft of a step, each second one, and so on;
    longest_draft: most of them in one step."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    mode: str
    stop_sequence: str | None = None
    incidents: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    drafts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    longest_draft: int = 0
    by_position: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The response cannot be completed. kind: see `proxy.errors`; message is safe to show to the client."""

    kind: str
    message: str


Event = Started | ThinkingDelta | TextDelta | ToolCall | Finished | Failed
