"""The table of refusals: each API's own status and shape, and advice on retrying that is true."""

from __future__ import annotations

import pytest

from proxy.backends.errors import BackendError, BadPrompt, ContextTooLong, Overloaded
from proxy.errors import KINDS, RequestError, body, headers, overflow, status, translate


def test_statuses_of_both_apis() -> None:
    both = {
        kind: (status("openai", RequestError(kind, "")), status("anthropic", RequestError(kind, ""))) for kind in KINDS
    }
    assert both == {
        "invalid_request": (400, 400),
        "context_too_long": (400, 400),
        "unauthorized": (401, 401),
        "previous_response_not_found": (400, 400),
        "forbidden": (403, 403),
        "unknown_model": (404, 404),
        "not_found": (404, 404),
        "method_not_allowed": (405, 405),
        "request_too_large": (413, 413),
        "expectation": (417, 417),
        "body_timeout": (408, 408),
        "busy": (429, 529),
        "shutting_down": (503, 529),
        "overloaded": (503, 529),
        "upstream": (502, 502),
        "internal": (500, 500),
    }


def test_openai_shape() -> None:
    error = RequestError("unknown_model", "model: there is no model 'x' here", "model")
    assert body("openai", error, "req_1") == {
        "error": {
            "message": "model: there is no model 'x' here",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_anthropic_shape() -> None:
    assert body("anthropic", RequestError("overloaded", "busy"), "req_1") == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "busy"},
        "request_id": "req_1",
    }


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_only_what_passes_by_is_worth_a_retry(kind: str) -> None:
    advice = headers(RequestError(kind, ""))
    if kind in ("overloaded", "busy", "shutting_down", "body_timeout", "upstream"):
        assert advice == {"x-should-retry": "true", "retry-after": "2", "retry-after-ms": "2000"}
    else:
        assert advice == {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"), [(None, "2", "2000"), (7.0, "7", "7000"), (0.25, "1", "250"), (0.0, "0", "0")]
)
def test_a_pause_that_a_server_asks_for_is_passed_on(seconds: float | None, whole: str, milliseconds: str) -> None:
    error = Overloaded("busy")
    error.retry_after_s = seconds
    advice = headers(translate("openai", error))
    assert (advice["retry-after"], advice["retry-after-ms"]) == (whole, milliseconds)


def test_overflow_is_worded_so_that_agents_compact() -> None:
    """Both wordings are what clients look for: without them they retry or give up."""
    chat, messages = overflow("openai", 9000, 8192), overflow("anthropic", 9000, 8192)
    assert body("openai", chat, "")["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 8192 tokens" in chat.message and "9000 tokens" in chat.message
    assert messages.message == "prompt is too long: 9000 tokens > 8192 maximum"


def test_backend_errors_keep_their_kind_and_words() -> None:
    assert translate("anthropic", ContextTooLong(10, 5)).message == "prompt is too long: 10 tokens > 5 maximum"
    assert translate("openai", BadPrompt("messages: no user turn")).kind == "invalid_request"
    assert translate("openai", Overloaded("8 requests wait")).kind == "overloaded"
    plain = translate("openai", BackendError("the engine stopped"))
    assert (plain.kind, plain.message) == ("internal", "the engine stopped")


def test_an_unknown_kind_is_internal() -> None:
    assert RequestError("no such kind", "text").kind == "internal"
