"""Incidents of one response: one per trip, all closed, and who is named."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from detectors.finding import Finding, Grade
from policies.modes import PLAIN, DecodeMode
from policies.policy import Continue, Decision, End, Rewind, Start
from proxy.backends.base import Delta, StepStats, Token
from proxy.conversation import Sampling
from proxy.guard.transcript import Transcript
from proxy.guard.trips import Trips
from proxy.incidents import NOWHERE, Origin
from proxy.replays.capture import Capture
from proxy.versions import versions
from tests.proxy.played import REQUEST, Sink, play
from tests.proxy.scripted import FAST, Script, ScriptedBackend, call_text, token_ids

BACK = Rewind(5, PLAIN, "trusted")


def finding(detector: str = "tool.schema", began: int = 5, **evidence: Any) -> Finding:
    return Finding(detector, Grade.FALLBACK, "tool:0", 9, began, "required", evidence)


class Response:
    """A response whose trips are told by hand."""

    def __init__(self, origin: Origin = NOWHERE) -> None:
        backend = ScriptedBackend("x")
        self.sink = Sink()
        self.transcript = Transcript()
        generation = asyncio.run(backend.generate(REQUEST, FAST))
        self.trips = Trips(REQUEST, backend, generation, self.sink, origin)

    def open(self, found: Finding, decision: Decision, mode: DecodeMode = FAST, lost: tuple[int, ...] = ()) -> None:
        self.trips.open(found, decision, mode, self.transcript, lost)

    def redecode(self, *tokens: int) -> None:
        for position, token in enumerate(tokens, 5):
            self.trips.redecoded(position, token)

    def close(self) -> list[tuple[str, str, str]]:
        self.trips.close("recovered", "stop", self.transcript)
        return [(closure.outcome, closure.culprit, closure.certainty) for closure in self.sink.closures]


def test_a_trip_that_is_cured() -> None:
    response = Response()
    response.open(finding(), BACK, lost=(1, 2, 3))
    response.redecode(1, 9, 9)
    assert response.close() == [("recovered", "speculation", "certain")]
    assert response.trips.ids == (response.sink.incidents[0].id,)
    assert response.sink.incidents[0].tokens_rewound == 3


def test_the_same_finding_again_belongs_to_the_same_incident() -> None:
    response = Response()
    response.open(finding(), BACK, lost=(1, 2, 3))
    response.redecode(1, 2)
    response.open(finding(), End("invalid_call", 5), PLAIN)
    assert response.close() == [("ended", "model", "certain")]


def test_another_finding_is_another_incident() -> None:
    response = Response()
    response.open(finding(), BACK, lost=(1, 2, 3))
    response.redecode(1, 9)
    response.open(finding(began=40), End("invalid_call", 40), PLAIN)
    assert response.close() == [("recovered", "speculation", "certain"), ("ended", "model", "certain")]


def test_the_model_s_own_fault_in_place_of_the_discarded_one_is_another_incident() -> None:
    response = Response()
    response.open(finding(), BACK, lost=(1, 2, 3))
    response.redecode(1, 9)
    response.open(finding(), End("invalid_call", 5), PLAIN)
    assert response.close() == [("recovered", "speculation", "certain"), ("ended", "model", "certain")]


def test_numbers_that_are_none_again_are_nobody_s() -> None:
    response = Response()
    response.open(finding("drift.nonfinite"), BACK, lost=(1, 2, 3, 4, 5))
    response.open(finding("drift.nonfinite"), End("engine_fault", 5), PLAIN)
    assert response.close() == [("ended", "unknown", "none")]


def test_numbers_that_are_finite_again_are_a_hint_since_they_may_be_lost_once_and_anywhere() -> None:
    response = Response()
    response.open(finding("drift.nonfinite"), BACK, lost=(1, 2, 3, 4, 5))
    response.redecode(1, 2, 3, 4, 5)
    assert response.close() == [("recovered", "speculation", "likely")]


def test_an_observed_trip() -> None:
    response = Response()
    response.open(finding("drift.audit"), Continue())
    response.open(finding(), Continue(), PLAIN)
    assert response.close() == [("observed", "speculation", "certain"), ("observed", "unknown", "none")]
    assert {incident.action for incident in response.sink.incidents} == {"none"}


def test_a_client_that_leaves_abandons_what_was_not_over() -> None:
    response = Response()
    response.open(finding(), BACK, lost=(1, 2))
    response.trips.close("abandoned", "", response.transcript)
    assert response.close() == [("abandoned", "unknown", "none")]


def cycles() -> Finding:
    return Finding("loop.history", Grade.FALLBACK, "session", 0, 0, "", {"copies": 3, "following": "d1"})


def test_a_loop_over_requests_is_broken_by_other_calls() -> None:
    response = Response()
    response.open(cycles(), Start(PLAIN))
    response.trips.called("d2")
    assert response.close() == [("recovered", "unknown", "none")]
    assert [incident.mode_after for incident in response.sink.incidents] == ["plain"]


def test_a_loop_over_requests_that_goes_on_plainly_is_the_model_s() -> None:
    response = Response()
    response.open(cycles(), Start(PLAIN))
    response.open(finding(), Continue())
    response.trips.called("d1")
    assert response.close() == [("observed", "model", "likely"), ("observed", "unknown", "none")]


def test_a_loop_over_requests_that_goes_on_in_speculation_is_nobody_s() -> None:
    response = Response()
    response.open(cycles(), Continue())
    response.trips.called("d1")
    assert response.close() == [("observed", "unknown", "none")]


def test_a_late_step_does_not_end_the_comparison_of_the_rewind_before() -> None:
    response = Response()
    response.open(finding(), BACK, lost=(1, 2, 3))
    response.open(Finding("stall.step", Grade.FALLBACK, "engine", 5, 5, ""), Continue(), PLAIN)
    response.redecode(1, 9)
    assert response.close() == [("recovered", "speculation", "certain"), ("observed", "unknown", "none")]


def test_a_stall_is_not_the_model_s() -> None:
    response = Response()
    response.open(Finding("stall.step", Grade.ABORT, "engine", 5, 5, ""), End("engine_stalled", 5), PLAIN)
    assert response.close() == [("ended", "unknown", "none")]


def test_a_rewind_s_capture_holds_what_stood_and_what_was_discarded() -> None:
    script = Script("one two six four five", fast="one two six fxxx nine", audited={2}, width=2)
    played = play(script, sampling=Sampling(seed=7))
    incident, capture = played.sink.incidents[0], played.sink.captures[0]
    assert capture is not None
    assert capture.request.messages == REQUEST.messages
    assert (capture.mode, capture.seed, capture.cached_tokens) == (FAST, 7, 0)
    assert len(capture.prompt_ids) == incident.prompt_tokens
    assert capture.kept_ids + capture.lost_ids == token_ids("one two six fxxx")
    assert (len(capture.kept_ids), len(capture.lost_ids)) == (incident.rewound_to, incident.tokens_rewound) == (2, 2)
    assert capture.response == "one two six fxxx"
    assert capture.modes == ((0, FAST),)
    assert Capture.parse(json.loads(json.dumps(capture.plain()))) == capture


def test_what_a_loop_s_capture_keeps_ends_where_the_rewind_goes() -> None:
    played = play(Script("I will be done.", fast=f"I will{' go on' * 2000}"))
    incident, capture = played.sink.incidents[0], played.sink.captures[0]
    assert capture is not None
    assert incident.rewound_to == len(capture.kept_ids) > 0
    assert incident.tokens_rewound == len(capture.lost_ids) > 100


def test_a_second_trip_s_capture_knows_both_modes() -> None:
    bad = call_text("ls", path="src", more="x")
    played = play(Script(f"one two six {bad}", fast="one two six fxxx nine", audited={2}, width=2))
    assert [incident.detector for incident in played.sink.incidents] == ["drift.audit", "tool.schema"]
    capture = played.sink.captures[1]
    assert capture is not None
    assert (capture.mode, capture.modes) == (PLAIN, ((0, FAST), (2, PLAIN)))
    assert capture.lost_ids == ()
    assert capture.response.startswith("one two six <tool_call>")


def test_incidents_say_under_which_rules_and_with_what() -> None:
    origin = Origin("c" * 64, "strict", "p" * 64)
    response = Response(origin)
    response.transcript.count(Delta(0, (Token(1, "a"),), StepStats(FAST, "mtp", 3, 0, 0.5, 9)))
    response.open(finding(tool="ls"), BACK)
    response.open(finding(tool="a tool that nobody declared"), BACK)
    first, second = response.sink.incidents
    assert first.origin == origin
    assert first.versions == versions()
    assert [step["source"] for step in first.steps] == ["mtp"]
    assert (first.tool, second.tool) == ("ls", "")
