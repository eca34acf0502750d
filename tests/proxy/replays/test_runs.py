"""Runs are made as the rules ask, watched as responses are, and never beyond what may be spent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from detectors.finding import Grade
from policies.axes import Axis
from policies.blame import Culprit
from policies.modes import PLAIN, DecodeMode
from proxy.backends.base import Rerun
from proxy.backends.errors import BackendError, BadPrompt
from proxy.conversation import Demands, Tool
from proxy.replays.capture import Capture
from proxy.replays.runs import WINDOW, Judged, Limits, Tripped, case_of, investigate, kin
from tests.proxy.played import REQUEST, play
from tests.proxy.replayable import LOOP, SOUND, VARIED, Replayable, capture
from tests.proxy.scripted import Script, call_text, token_ids

FAST = DecodeMode("mtp+ngram")
AMPLE = Limits(100_000, float("inf"))
LOOPED_AT = 258
"""Four copies over 256 tokens."""
TROUBLE = Tripped("loop.period", Grade.FALLBACK, LOOPED_AT, exact=True)


def faulty(rerun: Rerun) -> str:
    return LOOP if rerun.mode.speculates else SOUND


def run(
    backend: Replayable, given: Capture, tripped: Tripped = TROUBLE, limits: Limits = AMPLE, **how: object
) -> Judged:
    return asyncio.run(investigate(backend, tripped, given, limits, **how))  # type: ignore[arg-type]


def test_a_loop_of_the_drafts_is_found_in_the_text_of_the_runs() -> None:
    backend = Replayable(faulty)
    found = run(backend, capture())
    assert (found.verdict.culprit, found.verdict.certainty) == (Culprit.SPECULATION, "certain")
    assert [rerun.mode for rerun in backend.reruns] == [PLAIN, FAST]
    plain, then = found.rows
    assert (plain["recurs"], then["recurs"]) == (False, True)
    assert plain["first_difference"] == 3 and then["first_difference"] is None
    assert found.texts[plain["instead"][0]] == " here"
    assert all(generation.closes == 1 for generation in backend.runs)


def test_a_run_asks_for_what_was_asked_then() -> None:
    backend = Replayable(faulty)
    given = capture(cached=32)
    run(backend, given)
    baseline, then, draft = backend.reruns
    assert {(r.seed, r.prompt_ids, r.request) for r in backend.reruns} == {(1, given.prompt_ids, given.request)}
    assert (baseline.reuse, then.reuse, draft.reuse) == (0, 32, 32)
    assert baseline.check_every and not then.check_every  # the baseline is trusted, so it is checked
    assert not any(rerun.forced for rerun in backend.reruns)


def test_a_run_ends_where_the_trouble_came_or_should_have() -> None:
    backend = Replayable(lambda rerun: VARIED)
    run(backend, capture())
    assert all(LOOPED_AT + WINDOW < len(each.kept) <= LOOPED_AT + WINDOW + 4 for each in backend.runs)
    looping = Replayable(lambda rerun: LOOP)
    assert run(looping, capture()).verdict.culprit is Culprit.MODEL
    assert len(looping.runs[0].kept) <= LOOPED_AT + WINDOW


def test_the_filter_is_an_axis_where_something_is_demanded() -> None:
    tool = Tool("ls", parameters={"type": "object"}, strict=True)
    given = capture(mode=PLAIN)
    demanding = replace(given, request=replace(given.request, tools=(tool,)))
    backend = Replayable(lambda rerun: LOOP if rerun.filtered else SOUND)
    found = run(backend, demanding)
    assert found.verdict.culprit is Culprit.FILTER
    assert [rerun.filtered for rerun in backend.reruns] == [False, True]
    assert not case_of(TROUBLE, given).setup.filtered


def test_bad_demands_are_an_error_and_no_verdict() -> None:
    bad = replace(REQUEST, tools=(), demands=Demands(text_schema={"type": 5}, text_schema_at="response_format"))
    with pytest.raises(BadPrompt):
        run(Replayable(faulty), replace(capture(), request=bad))


def test_what_another_mode_decoded_is_forced() -> None:
    given = replace(capture(kept=12), modes=((0, DecodeMode("mtp")), (7, FAST)))
    backend = Replayable(faulty)
    assert run(backend, given).verdict.culprit is Culprit.SPECULATION
    assert {rerun.forced for rerun in backend.reruns} == {given.kept_ids[:7]}
    switched = replace(given, modes=((0, DecodeMode("mtp")),))  # the mode of the trip has decoded nothing that was kept
    backend = Replayable(lambda rerun: LOOP)
    run(backend, switched)
    assert backend.reruns[0].forced == given.kept_ids


def test_of_a_long_response_only_the_end_is_decoded_again() -> None:
    long = VARIED + LOOP
    ids = token_ids(long)
    at = len(ids) - 1
    tripped = replace(TROUBLE, position=at)
    given = capture(long, kept=at - 60)
    backend = Replayable(lambda rerun: long)
    run(backend, given, tripped, Limits(2 * at, float("inf")))
    assert len(backend.reruns[0].forced) == at + 1 + WINDOW - at // 2


def test_a_token_that_was_forced_may_have_led_plain_decoding_into_the_loop() -> None:
    """A draft has put a wrong token where it is not decoded again, and the model goes on from there."""
    wrong = "all is lost " + VARIED + LOOP
    at = len(token_ids(wrong)) - 1
    given = capture(wrong, kept=at - 60)

    def led(rerun: Rerun) -> str:
        return wrong if rerun.forced or rerun.mode.speculates else SOUND

    tripped = replace(TROUBLE, position=at)
    short = run(Replayable(led), given, tripped, Limits(2 * at, float("inf"))).verdict
    assert (short.culprit, short.certainty) == (Culprit.MODEL, "likely") and "taken as they were" in short.note
    assert run(Replayable(led), given, tripped).verdict.culprit is Culprit.SPECULATION


def test_a_budget_of_tokens_ends_it_and_says_so() -> None:
    backend = Replayable(faulty)
    found = run(backend, capture(), limits=Limits(650, float("inf")))
    assert len(backend.reruns) == 2 and found.verdict.culprit is Culprit.SPECULATION
    found = run(Replayable(faulty), capture(), limits=Limits(350, float("inf")))
    assert found.verdict.culprit is None and not found.verdict.finished
    assert "tokens" in found.verdict.note and len(found.rows) == 1


def test_a_budget_of_seconds_ends_it_in_the_middle_of_a_run() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    backend = Replayable(faulty)
    found = run(backend, capture(), limits=Limits(100_000, 20.0), clock=clock)
    assert found.verdict.culprit is None and "20 s" in found.verdict.note
    assert found.rows == ()  # a run that was cut short is no evidence
    assert backend.runs[0].closes == 1


def test_clients_come_first_and_the_run_is_made_anew() -> None:
    asked: list[int] = []

    async def patience() -> bool:
        asked.append(1)
        return True

    backend = Replayable(faulty, preempt=3)
    assert run(backend, capture(), patience=patience).verdict.culprit is Culprit.SPECULATION
    assert len(asked) == 3 and len(backend.reruns) == 5
    impatient = Replayable(faulty, preempt=1)
    found = run(impatient, capture())
    assert found.verdict.culprit is None and "clients came first" in found.verdict.note


def test_a_mode_that_cannot_be_run_is_told() -> None:
    with pytest.raises(BackendError):
        run(Replayable(faulty, refuse_runs=BadPrompt("kv: does not fit")), capture())

    class NoCodes(Replayable):
        async def replay(self, rerun: Rerun) -> object:  # type: ignore[override]
            if rerun.mode.codec != "full":
                raise BadPrompt("kv: does not fit")
            return await super().replay(rerun)

    found = run(NoCodes(faulty), capture(mode=DecodeMode("mtp+ngram", "k4v4")))
    assert not found.verdict.finished and "k4v4 cannot be run" in found.verdict.note


def test_a_refused_call_recurs_whichever_detector_speaks() -> None:
    good, bad = call_text("ls", path="src"), call_text("ls", paths="src")
    ids = token_ids(bad)
    given = replace(capture(bad, kept=0), request=REQUEST)
    tripped = Tripped("tool.markup", Grade.FALLBACK, len(ids) - 1, exact=True)
    found = run(Replayable(lambda rerun: bad if rerun.mode.speculates else good), given, tripped)
    assert found.verdict.culprit is Culprit.SPECULATION


@pytest.mark.parametrize("axes", [("codec",), ("draft", "codec")])
def test_axes_that_are_asked_for_are_run(axes: tuple[Axis, ...]) -> None:
    backend = Replayable(faulty)
    run(backend, capture(mode=DecodeMode("mtp+ngram", "k4v4")), axes=axes)
    assert DecodeMode("mtp+ngram") in [rerun.mode for rerun in backend.reruns]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("loop.period", "struct.think", True),
        ("tool.json", "tool.schema", True),
        ("drift.audit", "drift.shadow", False),
        ("loop.period", "tool.json", False),
    ],
)
def test_kin(one: str, other: str, same: bool) -> None:
    assert (kin(one) == kin(other)) is same


def test_scripts_are_what_the_tests_say() -> None:
    """The loop trips where TROUBLE says, and nothing does in the sound text."""
    opened = play(Script(SOUND, fast=LOOP)).sink.incidents[0]
    assert (opened.detector, opened.position) == (TROUBLE.detector, LOOPED_AT)
    assert not play(SOUND).sink.incidents
