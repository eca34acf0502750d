"""How a lane's response ends: the finish reasons of servers, their failures, and what both mean here.

Must not: take an end that nobody knows for a normal one in silence.
Invariant: every failure of a lane is either a finding, while there may be another lane, or a BackendError whose kind
says what a client should do.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from detectors.finding import Finding, Grade
from proxy.backends.base import EndReason
from proxy.backends.errors import BackendError, BadPrompt, ContextTooLong, Overloaded
from proxy.lanes.chunks import Chunk
from proxy.lanes.upstream import UpstreamError

_STOP = frozenset({"stop", "tool_calls", "function_call", "eos", "eos_token", "end_turn", "tool_use", "stop_sequence"})
_LENGTH = frozenset({"length", "max_tokens", "max_length", "model_length"})
_BROKEN = frozenset({"abort", "error", "cancelled", "timeout"})
_NUMBERS = re.compile(r"\d{1,10}")
_LIMIT = re.compile(r"(?:context (?:length|window|size)|n_ctx)\D{0,24}(\d{1,10})", re.IGNORECASE)


class LaneFailed(BackendError):
    """No lane can go on."""

    kind = "upstream"


class LaneBusy(Overloaded):
    """A lane has too much to do and says so: the client should wait, as long as it says."""

    kind = "busy"


def end_of(chunk: Chunk, stops: Collection[str]) -> tuple[EndReason, str | None]:
    """Of a chunk with a finish reason, and the client's stop string that ended it."""
    if chunk.finish in _LENGTH:
        return "length", None
    if chunk.stop is not None and chunk.stop in stops:
        return "stop_sequence", chunk.stop
    return "stop", None


def odd_end(chunk: Chunk, lane: str, position: int) -> Finding | None:
    """What is wrong with a finish reason."""
    if chunk.finish in _STOP or chunk.finish in _LENGTH:
        return None
    if chunk.finish == "repetition":
        evidence = {"lane": lane, "told": "the server stopped a repetition"}
        return Finding(
            "lane.repetition", Grade.FALLBACK, "engine", position, position, "the server saw a loop", evidence
        )
    if chunk.finish in _BROKEN:
        told = f"the {lane} lane gave the response up ({chunk.finish})"
        return failure(told, lane, "aborted", position)
    evidence = {"lane": lane, "told": f"the {lane} lane ended with a reason that is unknown"}
    return Finding("lane.finish", Grade.FALLBACK, "engine", position, position, "unknown finish reason", evidence)


def empty(lane: str, position: int) -> Finding:
    """A response that says nothing but thinking."""
    evidence = {"lane": lane, "told": f"the {lane} lane ended without a word"}
    return Finding("lane.empty", Grade.FALLBACK, "engine", position, 0, "nothing was said", evidence)


def failure(told: str, lane: str, kind: str, position: int) -> Finding:
    """A lane has failed. told: for the client, if there is no other lane. kind: as `proxy.lanes.upstream.Failure`."""
    evidence = {"lane": lane, "failure": kind, "told": told}
    return Finding("lane.failed", Grade.FALLBACK, "engine", position, position, f"the lane failed: {kind}", evidence)


def as_backend_error(error: UpstreamError) -> BackendError:
    """For a client, before anything was sent or where no other lane is left."""
    if error.failure == "refused" and error.status in (400, 413, 422):
        return _overflow(str(error)) or BadPrompt(str(error))
    told = {429: LaneBusy, 503: Overloaded}.get(error.status or 0, LaneFailed)(str(error))
    told.retry_after_s = error.retry_after_s
    return told


def not_taken_over(error: UpstreamError) -> BackendError:
    """A lane that could not go on for another one. What that one had taken is not the client's fault, but for a length
    that only its window holds."""
    told = as_backend_error(error)
    return LaneFailed(str(told)) if isinstance(told, BadPrompt) else told


def _overflow(told: str) -> ContextTooLong | None:
    """A prompt that does not fit, in the words of vLLM, SGLang or llama.cpp: the two numbers make clients compact."""
    limit = _LIMIT.search(told)
    if limit is None:
        return None
    most = max(int(number) for number in _NUMBERS.findall(told))
    return ContextTooLong(max(most, int(limit[1]) + 1), int(limit[1]))


def unasked(lane: str, error: UpstreamError, other: tuple[str, UpstreamError] | None = None) -> BackendError:
    """No lane could be asked. other: the one that was asked instead, and how it failed. The client is told of the
    first, unless the other one found the request at fault, or is merely busy: that is what it can act upon. An incident
    tells of both, unless the request is at fault for both or the lanes are merely busy."""
    told = as_backend_error(error)
    if other is not None:
        of_request = _is_clients(other[1]) and not _is_clients(error)
        if of_request or (_passes(other[1]) and not _passes(error)):
            told = as_backend_error(other[1])
    if all(_passes(each) for each in (error, *(() if other is None else other[1:]))):
        return told
    finding = failure(str(error), lane, error.failure, 0)
    if other is not None:
        name, second = other
        beside = {"other_lane": name, "other_failure": second.failure, "other_told": str(second)}
        finding = replace(finding, evidence={**finding.evidence, **beside})
    told.outage = finding
    return told


def _passes(error: UpstreamError) -> bool:
    return error.status == 429 or _is_clients(error)


def _is_clients(error: UpstreamError) -> bool:
    return isinstance(as_backend_error(error), BadPrompt | ContextTooLong)
