"""Of a response that nobody could be asked for there is one closed incident, if the error tells of something."""

from __future__ import annotations

from typing import Literal

import pytest

from detectors.finding import Finding, Grade
from policies.policy import Policy
from proxy.backends.errors import BackendError
from proxy.guard.unbegun import tell_unbegun
from proxy.incidents import NOWHERE
from tests.proxy.played import REQUEST, Sink
from tests.proxy.scripted import FAST, Script, ScriptedBackend

Action = Literal["enforce", "observe"]


def told(error: BackendError, action: Action = "enforce") -> Sink:
    sink = Sink()
    backend = ScriptedBackend(Script("never said"))
    tell_unbegun(error, REQUEST, backend, Policy(action=action), FAST, sink, NOWHERE)
    return sink


def out() -> BackendError:
    error = BackendError("nobody is there")
    error.outage = Finding("lane.failed", Grade.FALLBACK, "engine", 0, 0, "the lane failed: unreachable", {"lane": "x"})
    return error


@pytest.mark.parametrize(("action", "acted", "outcome"), [("enforce", "end", "ended"), ("observe", "none", "observed")])
def test_one_incident_that_is_closed(action: Action, acted: str, outcome: str) -> None:
    sink = told(out(), action)
    (incident,), (closure,) = sink.incidents, sink.closures
    assert (incident.detector, incident.action, incident.mode_before) == ("lane.failed", acted, str(FAST))
    assert (incident.prompt_tokens, incident.cached_tokens, incident.evidence["lane"]) == (0, 0, "x")
    assert (closure.id, closure.outcome, str(closure.culprit)) == (incident.id, outcome, "unknown")
    (capture,) = sink.captures
    assert capture is not None and not capture.is_exact and capture.request == REQUEST


def test_an_error_that_tells_nothing_leaves_none() -> None:
    sink = told(BackendError("the prompt is too long"))
    assert not sink.incidents and not sink.closures
