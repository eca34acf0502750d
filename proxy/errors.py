"""Every way a request can be refused: one table of kinds, their HTTP status, and their names in each API.

Must not: carry anything secret or anything a client wrote beyond the name of a field.
Invariant: a message names the field at fault and the remedy; `x-should-retry` is true only where a retry can help.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from proxy.backends.errors import BackendError, BadPrompt, ContextTooLong

Wire = Literal["openai", "anthropic"]


@dataclass(frozen=True, slots=True)
class Kind:
    """openai: (type, code); anthropic: (status, type), because the two disagree on overload."""

    status: int
    openai: tuple[str, str | None]
    anthropic: tuple[int, str]
    retry: bool = False


_BAD, _SERVER = "invalid_request_error", "server_error"
KINDS: dict[str, Kind] = {
    "invalid_request": Kind(400, (_BAD, None), (400, "invalid_request_error")),
    "context_too_long": Kind(400, (_BAD, "context_length_exceeded"), (400, "invalid_request_error")),
    "previous_response_not_found": Kind(400, (_BAD, "previous_response_not_found"), (400, "invalid_request_error")),
    "unauthorized": Kind(401, (_BAD, "invalid_api_key"), (401, "authentication_error")),
    "forbidden": Kind(403, (_BAD, "forbidden"), (403, "permission_error")),
    "unknown_model": Kind(404, (_BAD, "model_not_found"), (404, "not_found_error")),
    "not_found": Kind(404, (_BAD, "unknown_url"), (404, "not_found_error")),
    "method_not_allowed": Kind(405, (_BAD, "method_not_allowed"), (405, "invalid_request_error")),
    "request_too_large": Kind(413, (_BAD, "request_too_large"), (413, "request_too_large")),
    "expectation": Kind(417, (_BAD, "expectation_failed"), (417, "invalid_request_error")),
    "body_timeout": Kind(408, (_BAD, "request_timeout"), (408, "invalid_request_error"), retry=True),
    # the client should wait: 429, for which the Anthropic API has 529 where it is not the client's own limit
    "busy": Kind(429, ("rate_limit_error", "rate_limit_exceeded"), (529, "overloaded_error"), retry=True),
    "shutting_down": Kind(503, (_SERVER, "shutting_down"), (529, "overloaded_error"), retry=True),
    "overloaded": Kind(503, (_SERVER, "overloaded"), (529, "overloaded_error"), retry=True),
    "upstream": Kind(502, (_SERVER, "upstream_error"), (502, "api_error"), retry=True),
    "internal": Kind(500, (_SERVER, "internal_error"), (500, "api_error")),
}
RETRY_AFTER_S = 2


class RequestError(Exception):
    """A request is refused. param: the field at fault as a path (`messages[2].content`). retry_after_s: when it may be
    sent again, None = RETRY_AFTER_S."""

    def __init__(self, kind: str, message: str, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind if kind in KINDS else "internal"
        self.message, self.param, self.retry_after_s = message, param, retry_after_s


def overflow(wire: Wire, tokens: int, limit: int) -> RequestError:
    """The wording that makes agents compact their history instead of giving up."""
    if wire == "anthropic":
        return RequestError("context_too_long", f"prompt is too long: {tokens} tokens > {limit} maximum")
    return RequestError(
        "context_too_long",
        f"This model's maximum context length is {limit} tokens. However, your messages resulted in "
        f"{tokens} tokens. Please reduce the length of the messages.",
        "messages",
    )


def translate(wire: Wire, error: BackendError) -> RequestError:
    """A backend's refusal in the API's wording."""
    if isinstance(error, ContextTooLong):
        return overflow(wire, error.tokens, error.limit)
    param = error.param if isinstance(error, BadPrompt) else None
    return RequestError(error.kind, str(error), param, error.retry_after_s)


def status(wire: Wire, error: RequestError) -> int:
    kind = KINDS[error.kind]
    return kind.anthropic[0] if wire == "anthropic" else kind.status


def headers(error: RequestError) -> dict[str, str]:
    """Tells SDKs whether to retry; without retry-after some clients give up at once on an overload."""
    if not KINDS[error.kind].retry:
        return {"x-should-retry": "false"}
    pause_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
    return {
        "x-should-retry": "true",
        "retry-after": str(ceil(pause_s)),
        "retry-after-ms": str(ceil(pause_s * 1000)),
    }


def body(wire: Wire, error: RequestError, request_id: str) -> dict[str, Any]:
    """The API's own shape; also what is sent as an in-stream error."""
    kind = KINDS[error.kind]
    if wire == "anthropic":
        return {
            "type": "error",
            "error": {"type": kind.anthropic[1], "message": error.message},
            "request_id": request_id,
        }
    name, code = kind.openai
    return {"error": {"message": error.message, "type": name, "param": error.param, "code": code}}
