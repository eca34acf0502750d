"""What one event of an upstream's stream says, whoever sent it.

Must not: know a dialect, or judge. Invariant: plain, frozen data; what was not said is empty or None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of a tool call. name is there in the first piece of a call, arguments are JSON text as it stands."""

    index: int
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its log-probability. data: its bytes; top: likeliest in its place, best first."""

    text: str
    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the whole response, None where the server does not tell. drafted, accepted: by its speculation."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    drafted: int | None = None
    accepted: int | None = None
    prompt_ms: float | None = None


class Chunk(NamedTuple):
    """One event. (A tuple, as it is made often.) token_ids: None = not told, empty = of no token.

    finish: the server's own word, None while the response goes on. stop: the stop string that ended it, or another
    reason it gives. error: an error object that came in place of a chunk: what it says, shortened.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[CallPiece, ...] = ()
    token_ids: tuple[int, ...] | None = None
    scored: tuple[Scored, ...] = ()
    prompt_tokens: int | None = None
    prompt_ids: tuple[int, ...] = ()
    finish: str | None = None
    stop: str | None = None
    counts: Counts | None = None
    error: str | None = None
    error_status: int | None = None
