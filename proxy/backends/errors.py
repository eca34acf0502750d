"""Why a backend could not do what was asked: each error names its kind and is safe to show to a client.

Must not: know an API's error shapes or statuses; `proxy.errors` maps kinds to them.
Invariant: `kind` is one of `proxy.errors`, and the message names the remedy and tells nothing of other clients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from detectors.finding import Finding


class BackendError(Exception):
    """Generation is impossible; `kind` is one of `proxy.errors`, the message is safe to show to a client. outage: what
    an incident is to tell of it, where nothing was generated that could tell; None = nothing. retry_after_s: when a
    client may ask again, where a server has said so."""

    kind = "internal"
    outage: Finding | None = None
    retry_after_s: float | None = None


class ContextTooLong(BackendError):
    """The prompt does not fit the context window. Its words make agents compact their history also where nobody puts
    them as the API does: behind the first byte."""

    kind = "context_too_long"

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"prompt is too long: {tokens} tokens > {limit} maximum")
        self.tokens, self.limit = tokens, limit


class BadPrompt(BackendError):
    """This model cannot do what the request asks for. param: the field at fault, if it is a single one."""

    kind = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Overloaded(BackendError):
    """Too many requests are waiting; the client should retry after a pause."""

    kind = "overloaded"


class QueueFull(Overloaded):
    """No further request may wait."""

    kind = "busy"


class ShuttingDown(BackendError):
    """The server ends; whoever takes its place can be asked again."""

    kind = "shutting_down"

    def __init__(self) -> None:
        super().__init__("the server is shutting down; send the request again in a moment")


class Preempted(BackendError):
    """A response is not run again while clients are served or wait; try later."""

    kind = "overloaded"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a backend can serve nobody now. reason: `died` or `stuck`; message: for people, with the remedy; final: it
    does not pass by itself."""

    reason: Literal["died", "stuck"]
    message: str
    final: bool = False


class EngineLost(BackendError):
    """What was asked for will not come. It can be asked for again unless the trouble is final."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.message)
        self.trouble = trouble
        self.kind = "internal" if trouble.final else "overloaded"
