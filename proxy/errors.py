"""Everything that can be wrong with a request, and how each client API says it: status, headers, body.

Must not: know HTTP handlers or backends' internals, or put a user's content into a message.
Invariant: an error has one kind; the kind alone decides the status, the types and whether to retry.

Statuses and types are those that the official SDKs map to exceptions; the wording of an overflow is what coding
agents look for before they compact their history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Shape = Literal["openai", "anthropic"]

RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind is said. retry: whether the same request may succeed later."""

    status: int
    openai_type: str
    openai_code: str | None
    anthropic_type: str
    anthropic_status: int = 0
    retry: bool = False


_BAD, _SERVER = "invalid_request_error", "server_error"
KINDS: Mapping[str, Kind] = {
    "invalid_request": Kind(400, _BAD, None, "invalid_request_error"),
    "unsupported": Kind(400, _BAD, "unsupported_parameter", "invalid_request_error"),
    "context_too_long": Kind(400, _BAD, "context_length_exceeded", "invalid_request_error"),
    "unauthorized": Kind(401, _BAD, "invalid_api_key", "authentication_error"),
    "forbidden": Kind(403, _BAD, "forbidden", "permission_error"),
    "not_found": Kind(404, _BAD, "unknown_url", "not_found_error"),
    "unknown_model": Kind(404, _BAD, "model_not_found", "not_found_error"),
    "method_not_allowed": Kind(405, _BAD, "method_not_allowed", "invalid_request_error"),
    "request_too_large": Kind(413, _BAD, "request_too_large", "request_too_large"),
    "internal": Kind(500, _SERVER, None, "api_error"),
    # A 429 without retry-after is fatal to some agents and a 5xx without it is hammered: it is always sent.
    "overloaded": Kind(503, _SERVER, "overloaded", "overloaded_error", 529, retry=True),
}


class ApiError(Exception):
    """A refusal. kind: a key of KINDS (an unknown one is `internal`); param: the field at fault, as a path."""

    def __init__(
        self, kind: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind if kind in KINDS else "internal"
        self.message, self.param = message, param
        self.headers = dict(headers or {})

    def said(self, shape: Shape) -> str:
        """The message in the words of an API."""
        return self.message


class ContextOverflow(ApiError):
    """A prompt that does not fit; both wordings make agents compact their history instead of giving up."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__("context_too_long", "", "messages")
        self.tokens, self.limit = tokens, limit
        self.message = self.said("openai")

    def said(self, shape: Shape) -> str:
        if shape == "anthropic":
            return f"prompt is too long: {self.tokens} tokens > {self.limit} maximum"
        return (
            f"This model's maximum context length is {self.limit} tokens. However, your messages resulted in "
            f"{self.tokens} tokens. Please reduce the length of the messages."
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """An error ready to be sent."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def answer(error: ApiError, shape: Shape, request_id: str = "") -> Answer:
    """Status, body and headers of a refusal before the first byte."""
    kind = KINDS[error.kind]
    status = kind.anthropic_status or kind.status if shape == "anthropic" else kind.status
    headers = {"x-should-retry": "true" if kind.retry else "false", **error.headers}
    if kind.retry:
        headers |= {"retry-after": str(RETRY_AFTER_S), "retry-after-ms": str(RETRY_AFTER_S * 1000)}
    return Answer(status, body(error, shape, request_id), headers)


def body(error: ApiError, shape: Shape, request_id: str = "") -> dict[str, Any]:
    """The error object, the same before the first byte and inside a stream."""
    kind = KINDS[error.kind]
    message = error.said(shape)
    if shape == "anthropic":
        return {
            "type": "error",
            "error": {"type": kind.anthropic_type, "message": message},
            "request_id": request_id or None,
        }
    return {
        "error": {
            "message": message,
            "type": kind.openai_type,
            "param": error.param,
            "code": kind.openai_code,
        }
    }
