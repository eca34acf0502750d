"""What one small chat request to a lane brought back, of whatever dialect: for probes and for the poison check.

Must not: be the way of a client's response, or keep more than a few thousand tokens.
Invariant: a field that is not of its documented type is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from proxy.lanes.asking import Asker, number

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Said:
    """A token's log-probability, and how many alternatives came with it."""

    logprob: float
    alternatives: int


@dataclass(slots=True)
class Heard:
    """text: of content and thinking, in the order of arrival. ended: there was a finish reason. errors: messages of
    error objects in the stream. chunks: deltas that came."""

    text: str = ""
    content: str = ""
    token_ids: list[int] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    logprobs: list[Said] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    ended: bool = False
    chunks: int = 0

    @property
    def completion_tokens(self) -> int | None:
        return _count(self.usage.get("completion_tokens"))

    @property
    def prompt_tokens(self) -> int | None:
        return _count(self.usage.get("prompt_tokens"))

    @property
    def cached_tokens(self) -> tuple[int, str] | None:
        """How much of the prompt came from the prefix cache, and where that is told."""
        details = self.usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        if cached is not None:
            return cached, "usage"
        cached = _count(self.timings.get("cache_n"))
        return None if cached is None else (cached, "timings")

    def take(self, value: Any) -> None:
        """One JSON value of a stream, or a whole answer."""
        if not isinstance(value, dict):
            return
        if value.get("error") or value.get("object") == "error":
            self.errors.append(_message(value.get("error") or value))
        if isinstance(value.get("usage"), dict):
            self.usage = value["usage"]
        if isinstance(value.get("timings"), dict):
            self.timings = value["timings"]
        self.prompt_ids += _ids(value.get("prompt_token_ids"))
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            if isinstance(choice, dict):
                self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        part = choice.get("delta") or choice.get("message")
        self.prompt_ids += _ids(choice.get("prompt_token_ids"))
        self.token_ids += _ids(choice.get("token_ids"))
        self.ended |= isinstance(choice.get("finish_reason"), str)
        logprobs = choice.get("logprobs")
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        for entry in entries if isinstance(entries, list) else []:
            logprob = number(entry.get("logprob")) if isinstance(entry, dict) else None
            if logprob is not None:
                top = entry.get("top_logprobs")
                self.logprobs.append(Said(logprob, len(top) if isinstance(top, list) else 0))
        if not isinstance(part, dict):
            return
        self.chunks += 1
        for name in ("reasoning_content", "reasoning", "content"):
            if isinstance(part.get(name), str):
                self.text += part[name]
                self.content += part[name] if name == "content" else ""


async def hear(asker: Asker, body: Mapping[str, Any]) -> Heard:
    """Streams a request to its end. Raises Unanswered."""
    heard = Heard()
    async with aclosing(asker.events(CHAT, {**body, "stream": True})) as events:
        async for value in events:
            heard.take(value)
    return heard


async def told(asker: Asker, body: Mapping[str, Any]) -> Heard:
    """The same, in one piece. Raises Unanswered."""
    heard = Heard()
    heard.take(await asker.post(CHAT, body))
    return heard


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list):
        return []
    return [each for each in value if isinstance(each, int) and not isinstance(each, bool) and each >= 0]


def _count(value: Any) -> int | None:
    found = number(value)
    return int(found) if found is not None and found >= 0 else None


def _message(error: Any) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return str(text)[:200]
