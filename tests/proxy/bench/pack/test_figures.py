"""Figures: intervals that hold what they should, and nothing made of what was not observed."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.bench.pack.client import Answer, Call, Drafts
from proxy.bench.pack.figures import Trial, again, digest, figures, per_second, positions, wilson

GOOD, BAD = Call("1", "ls", "{}"), Call("2", "ls", "{", "tool.json: the arguments are no JSON")


def test_wilson() -> None:
    assert wilson(0, 0) is None
    rate = wilson(9, 10)
    assert rate is not None and (round(rate.low, 3), round(rate.high, 3)) == (0.596, 0.982)
    for good in (0, 10):
        rate = wilson(good, 10)
        assert rate is not None and rate.low <= rate.value <= rate.high and rate.low >= 0 and rate.high <= 1


def test_speed_is_of_sums_and_its_interval_holds_it() -> None:
    rate = per_second([(100, 1.0), (10, 1.0), (0, 0.0)])
    assert rate is not None and rate.value == 55 and rate.of == 2
    assert rate.low == 10 and rate.high == 100 and rate == per_second([(100, 1.0), (10, 1.0)])
    assert per_second([]) is None and per_second([(3, 0.0)]) is None


def test_what_was_not_observed_is_none() -> None:
    found = figures("plain", "cold", [Trial("a", [Answer(text="x", tokens=4, decode_s=2.0)], 1.0)])
    assert (found.valid, found.passed, found.acceptance, found.first_edit_s, found.lines_off) == (None,) * 5
    assert found.decode is not None and found.decode.value == 2 and found.prefill is None


def test_a_failed_answer_counts_as_that_alone() -> None:
    failed = Answer(failed="status 500: no", tokens=99, decode_s=1.0, calls=(BAD,))
    found = figures("plain", "cold", [Trial("a", [failed], 1.0, good=False)])
    assert (found.failures, found.tokens, found.valid) == (1, 0, None)
    assert found.notes == ("status 500: no",) and found.passed is not None and found.passed.value == 0


def test_calls_that_the_guard_kept_back_are_invalid_ones() -> None:
    answers = [Answer(calls=(GOOD,), incidents=("a",)), Answer(calls=(GOOD, BAD)), Answer(incidents=("b", "c"))]
    told = {"a": "tool.schema", "b": "loop.period", "c": "drift.audit"}
    found = figures("m/full", "x", [Trial("t", answers, 1.0)], told)
    assert found.valid is not None and (found.valid.of, round(found.valid.value * 4)) == (4, 2)
    assert (found.loops, found.trips) == (1, 2)
    assert figures("plain", "x", [Trial("t", [Answer(loop="loop.bytes")], 1.0)]).loops == 1
    both = [Answer(incidents=("b",), loop="loop.bytes"), Answer(incidents=("b",)), Answer(loop="loop.bytes")]
    assert figures("m/full", "x", [Trial("t", both, 1.0)], told).loops == 3, "each answer once, all of them"


def test_the_middle_first_edit_and_the_mean_prompt() -> None:
    answers = [Answer(prompt=10), Answer(prompt=30), Answer(prompt=99, failed="no")]
    trials = [Trial("t", answers, 1.0, first_edit_s=seconds) for seconds in (1.0, 2.0, 9.0, None)]
    found = figures("plain", "x", trials)
    assert (found.first_edit_s, found.prompt_tokens, found.seconds) == (2.0, 20.0, 4.0)


def test_falling_back_and_beginning_safer_are_told_apart() -> None:
    fell = Answer(began_in="mtp/full", mode="plain")
    safer = Answer(began_in="plain", mode="plain")
    found = figures("mtp/full", "x", [Trial("t", [fell, safer, Answer()], 1.0)])
    assert (found.fallbacks, found.refused) == (1, 1)
    served = figures("served", "x", [Trial("t", [Answer(began_in="mtp/full", mode="mtp/full")], 1.0)])
    assert served.refused == 0, "whatever a server that is measured as it is begins in"


def test_drafts_by_position() -> None:
    drafts = [Drafts(3, 2, ((2, 2), (1, 0))), Drafts(1, 1, ((1, 1),))]
    assert positions(drafts) == ((3, 3), (1, 0))
    found = figures("mtp/full", "x", [Trial("t", [Answer(drafts=each) for each in drafts], 1.0)])
    assert found.acceptance is not None and found.acceptance.value == pytest.approx(0.75)


def test_drafts_of_one_answer_are_not_so_many_observations() -> None:
    """Half of the answers accept everything, the others nothing: of other answers it may be a third, or two."""
    answers = [Answer(drafts=Drafts(100, 100 * (n % 2))) for n in range(20)]
    rate = figures("mtp/full", "x", [Trial("t", answers, 1.0)]).acceptance
    assert rate is not None and (rate.value, rate.of) == (0.5, 2000) and rate.low < 0.35 and rate.high > 0.65


def test_one_more_round_is_added() -> None:
    def made(seconds: float, good: bool = True, **answer: Any) -> Any:
        return figures("mtp/full", "x", [Trial("t", [Answer(**answer)], seconds, seconds / 2, good)] * 2)

    first = made(1.0, text="a")
    both = again(again(first, made(3.0, text="a")), made(2.0, text="a"))
    assert both.timed == ((1.0, 1.0), (3.0, 3.0), (2.0, 2.0))
    assert (both.seconds, both.processor_s, both.text) == (4.0, 2.0, first.text)
    assert both.passed == first.passed and both.trials == 2, "the same tasks again are not more of them"
    worse = again(first, made(1.0, False, text="b", loop="loop.bytes"))
    assert worse.loops == 2 and worse.passed is not None and worse.passed.value == 0
    assert worse.text not in (first.text, both.text) and again(first, made(1.0, text="b")).text == worse.text
    assert again(made(1.0, text="b"), made(1.0, text="a")).text != worse.text


def test_a_digest_sees_every_difference() -> None:
    one = Answer(text="a", calls=(GOOD,), ids=(1, 2))
    others = [
        Answer(text="b", calls=(GOOD,), ids=(1, 2)),
        Answer(text="a", ids=(1, 2)),
        Answer(text="a", calls=(GOOD,)),
    ]
    assert len({digest([each]) for each in (one, *others)}) == 4
    assert digest([Answer(text="a", calls=(Call("other id", "ls", "{}"),), ids=(1, 2))]) == digest([one])
