"""What a lane can tell and do, as probing has found it.

Must not: guess; what was not seen is None or False.
Invariant: plain data, so that it can be shown, stored in an incident, and compared between two attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["vllm", "sglang", "llamacpp", "openai"]
"""Whose dialect of chat/completions a server speaks; `openai` = nobody's in particular."""
ErrorFrame = Literal["error_object", "closes", "unknown"]
"""How a stream that fails in its middle ends: with an error object inside `data:`, or by a closed connection."""


@dataclass(frozen=True, slots=True)
class LaneCapabilities:
    """token_ids: the stream carries the ids of its tokens. logprobs: it carries log-probabilities;
    logprobs_under_speculation: they were there while drafts were accepted (None = not told).
    draft_statistics: where acceptance can be read: in the stream's own `timings`, from `metrics`, or nowhere.
    prefill: a trailing assistant message is continued, not answered. cache_salt: a prefix can be made one's own.
    usage: the stream ends with usage. speculation, kv: what the server says it runs, in its own words; None = it does
    not say. version: of the server, as it says.
    """

    kind: Kind = "openai"
    version: str = ""
    token_ids: bool = False
    logprobs: bool = False
    logprobs_under_speculation: bool | None = None
    draft_statistics: Literal["timings", "metrics", "none"] = "none"
    prefill: bool = False
    error_frame: ErrorFrame = "unknown"
    cache_salt: bool = False
    usage: bool = False
    prompt_logprobs: bool = False
    speculation: str | None = None
    kv: str | None = None
    prefix_cache: bool | None = None
    context_window: int | None = None
