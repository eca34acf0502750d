"""What a lane can tell and do, as probing has found it.

Must not: guess; what was not seen is None or False.
Invariant: plain data, so that it can be shown, stored in an incident, and compared between two attempts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["vllm", "sglang", "llamacpp", "openai"]
"""Whose dialect of chat/completions a server speaks; `openai` = nobody's in particular."""
ErrorFrame = Literal["error_object", "closes", "unknown"]
"""How a stream that fails in its middle ends: with an error object inside `data:`, or by a closed connection."""
NO_DRAFTS = "none"
"""What `speculation` is where the server says that it drafts nothing."""


@dataclass(frozen=True, slots=True)
class LaneCapabilities:
    """token_ids: the stream carries the ids of its tokens. logprobs: it carries log-probabilities;
    logprobs_under_speculation: they were there while drafts were accepted (None = not told).
    draft_statistics: where acceptance can be read: in the stream's own `timings`, from `metrics`, or nowhere.
    prefill: a trailing assistant message is continued, not answered. cache_salt: a prefix can be made one's own.
    usage: the stream ends with usage. speculation, kv: what the server says it runs, in its own words; None = it does
    not say, NO_DRAFTS = it says that it drafts nothing. version: of the server, as it says. prompt_ids: the stream
    begins with the ids of the prompt. prompt_logprobs: it scores given tokens. cache_hits: where it tells how much of a
    prompt came from its prefix cache.
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
    prompt_ids: bool = False
    cache_hits: Literal["usage", "timings", "metrics", "none"] = "none"

    @property
    def speculates(self) -> bool:
        """The server says that it drafts."""
        return self.speculation not in (None, NO_DRAFTS)

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


COSTS = {
    "token_ids": "loops are looked for in bytes, and what a parser swallows is not seen",
    "logprobs": "loops are not corroborated by log-probabilities",
    "draft_statistics": "a dead or looping drafter is not noticed by its acceptance",
    "prefill": "text that was delivered before a fall back cannot be continued: the response ends with an error",
    "error_frame": "how it fails in mid-stream was not seen yet; any end without a finish reason counts as a failure",
    "cache_salt": "a retry on this lane may come from the same damaged prefix",
    "usage": "tokens are counted by deltas",
    "prompt_logprobs": "it cannot check another lane's tokens: no drift figure",
    "speculation": "known-bad pairs with speculation are not noticed",
    "kv": "known-bad KV types are not noticed",
    "prompt_ids": "its turns cannot be held against another lane: no drift figure of it",
    "cache_hits": "canaries prove nothing about its prefix cache",
}
"""What it costs that a capability is missing."""


def missing(capabilities: LaneCapabilities) -> dict[str, str]:
    """Capabilities that a lane lacks, and what that costs."""
    plain = capabilities.plain()
    lacking = [name for name in COSTS if plain[name] in (False, None, "none", "unknown")]
    if capabilities.speculation == NO_DRAFTS:  # nothing to tell of
        lacking = [name for name in lacking if name not in ("speculation", "draft_statistics")]
    found = {name: COSTS[name] for name in lacking}
    if capabilities.logprobs_under_speculation is False:
        found["logprobs_under_speculation"] = "its log-probabilities are missing or made up there, and not used"
    return found
