"""Ends and failures of lanes: what is normal, what is a finding, and what a client is told."""

from __future__ import annotations

import pytest

from detectors.finding import Grade
from proxy.backends.errors import ContextTooLong
from proxy.backends.lane_ends import as_backend_error, empty, end_of, failure, not_taken_over, odd_end, unasked
from proxy.lanes.chunks import Chunk
from proxy.lanes.upstream import Failure, UpstreamError


@pytest.mark.parametrize(
    ("finish", "stop", "end"),
    [
        ("stop", None, ("stop", None)),
        ("tool_calls", None, ("stop", None)),
        ("eos_token", None, ("stop", None)),
        ("length", None, ("length", None)),
        ("max_tokens", "END", ("length", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", "other", ("stop", None)),
        ("warp", None, ("stop", None)),
    ],
)
def test_ends(finish: str, stop: str | None, end: tuple[str, str | None]) -> None:
    assert end_of(Chunk(finish=finish, stop=stop), ("END",)) == end


@pytest.mark.parametrize(
    ("finish", "detector"),
    [
        ("stop", None),
        ("length", None),
        ("function_call", None),
        ("repetition", "lane.repetition"),
        ("abort", "lane.failed"),
        ("error", "lane.failed"),
        ("content_filter", "lane.finish"),
        ("warp", "lane.finish"),
    ],
)
def test_odd_ends(finish: str, detector: str | None) -> None:
    found = odd_end(Chunk(finish=finish), "fast", 9)
    assert (found and found.detector) == detector
    if found is not None:
        assert (found.grade, found.position, found.evidence["lane"]) == (Grade.FALLBACK, 9, "fast")
        assert "warp" not in found.reason


def test_findings_of_a_lane() -> None:
    found = failure("the fast lane broke off", "fast", "died", 4)
    assert (found.detector, found.reason, found.evidence["told"]) == (
        "lane.failed", "the lane failed: died", "the fast lane broke off",
    )  # fmt: skip
    assert (empty("fast", 4).detector, empty("fast", 4).began) == ("lane.empty", 0)


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("unreachable", None, "upstream"),
        ("died", None, "upstream"),
        ("unavailable", 500, "upstream"),
        ("unavailable", 503, "overloaded"),
        ("unavailable", 429, "busy"),
        ("refused", 400, "invalid_request"),
        ("refused", 422, "invalid_request"),
        ("refused", 413, "invalid_request"),
        ("refused", 401, "upstream"),
        ("refused", 404, "upstream"),
    ],
)
def test_what_a_client_should_do(kind: Failure, status: int | None, expected: str) -> None:
    error = as_backend_error(UpstreamError(kind, "the fast lane answers: so", status))
    assert (error.kind, str(error)) == (expected, "the fast lane answers: so")


@pytest.mark.parametrize(
    ("told", "tokens", "limit"),
    [
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the "
         "messages, 100 in the completion).", 5000, 4096),
        ("request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it", 9000, 8192),
        ("The input (70000 tokens) is longer than the model's context length (65536 tokens).", 70000, 65536),
        ("the prompt exceeds the context window of 2048", 2049, 2048),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long_is_told_with_its_numbers(told: str, tokens: int, limit: int) -> None:
    error = as_backend_error(UpstreamError("refused", f"the fast lane answers with status 400: {told}", 400))
    assert isinstance(error, ContextTooLong)
    assert (error.tokens, error.limit) == (tokens, limit)


def test_other_refusals_with_numbers_are_none() -> None:
    error = as_backend_error(UpstreamError("refused", "the fast lane answers with status 400: top_k 5000 of 40", 400))
    assert not isinstance(error, ContextTooLong)


@pytest.mark.parametrize(
    ("failure", "status", "told"),
    [
        ("refused", 400, False),
        ("unavailable", 429, False),
        ("unreachable", None, True),
        ("unavailable", 503, True),
        ("refused", 401, True),
    ],
)
def test_an_incident_tells_of_an_outage_and_not_of_a_bad_request(
    failure: Failure, status: int | None, told: bool
) -> None:
    error = UpstreamError(failure, "why", status)
    assert (unasked("fast", error).outage is not None) == told
    other = UpstreamError("unreachable", "no connection")
    finding = unasked("fast", error, ("plain", other)).outage
    assert finding is not None, "one of them is away"
    assert finding.evidence["other_failure"] == "unreachable"
    assert type(unasked("fast", error, ("plain", other))) is type(as_backend_error(error))


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [
        (400, "the plain lane answers with status 400: top_k must be positive", "invalid_request"),
        (
            400,
            "the plain lane answers with status 400: maximum context length is 64 tokens, not 90",
            "context_too_long",
        ),
        (401, "the plain lane answers with status 401: no key", "upstream"),
        (429, "the plain lane answers with status 429: busy", "busy"),
        (503, "the plain lane answers with status 503: loading", "upstream"),
    ],
)
def test_a_lane_that_finds_the_request_at_fault_is_heard_before_one_that_is_away(
    status: int, told: str, kind: str
) -> None:
    """The client can do something about its request, or wait, and nothing about a lane."""
    away = UpstreamError("unreachable", "the fast lane cannot be reached")
    second = UpstreamError("unavailable" if status in (429, 503) else "refused", told, status, 7.0)
    error = unasked("fast", away, ("plain", second))
    assert error.kind == kind
    assert ("plain" in str(error)) == (kind in ("invalid_request", "busy"))
    assert error.retry_after_s == (7.0 if kind == "busy" else None)
    assert error.outage is not None and error.outage.evidence["failure"] == "unreachable"


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        ("refused", 400, "upstream"),
        ("refused", 422, "upstream"),
        ("unreachable", None, "upstream"),
        ("unavailable", 503, "overloaded"),
    ],
)
def test_a_lane_that_goes_on_for_another_one_does_not_blame_the_client(
    failure: Failure, status: int | None, kind: str
) -> None:
    error = not_taken_over(UpstreamError(failure, "the plain lane answers: so", status))
    assert (error.kind, str(error)) == (kind, "the plain lane answers: so")


def test_but_for_a_length_that_is_too_much_for_its_window() -> None:
    told = "the plain lane answers with status 400: maximum context length is 64 tokens, not 90"
    assert isinstance(not_taken_over(UpstreamError("refused", told, 400)), ContextTooLong)
