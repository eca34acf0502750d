"""Steps of an open call that wait for each other: which may, for how long, and that nobody can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.finding import Finding, Grade
from detectors.parts import Part
from policies.modes import PLAIN
from proxy.backends.base import Audit, CacheFault, CacheHealth, Delta, Shadow, StepStats, Token
from proxy.lag import LAG_MS, Lag
from tests.proxy.played import GOOD, LS, Played, play
from tests.proxy.scripted import FAST, Script, call_text, cut

RM = call_text("rm", path="src")
WRITE = call_text("ls", path="one two three\nfour five six\n" * 6)
LOOPING = "<tool_call>\n<function=ls>\n<parameter=path>\n" + "over and over " * 400


def step(text: str = "a", milliseconds: float = 5.0, **stats: Any) -> Delta:
    return Delta(0, (Token(1, text, finite=True),), StepStats(FAST, "mtp", 3, 3, milliseconds, 10, **stats))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_wait_until_the_engine_has_worked_long_enough() -> None:
    lag = Lag(Clock())
    steps = [step(str(number), LAG_MS / 4) for number in range(5)]
    assert [lag.takes(each) for each in steps] == [True] * 4 + [False]
    assert lag.take(steps[-1]) == steps
    assert lag.takes(steps[0]), "the next ones may wait as long"


def test_steps_do_not_wait_for_one_that_comes_late() -> None:
    clock = Clock()
    lag = Lag(clock)
    assert lag.takes(step())
    clock.now = LAG_MS / 1e3 - 0.001
    assert lag.takes(step())
    clock.now += 0.002
    assert not lag.takes(step())
    assert len(lag.take(step())) == 3


@pytest.mark.parametrize(
    "urgent",
    [
        step("a<"),
        step(milliseconds=LAG_MS * 2),
        step(audit=Audit(4, None)),
        step(dead_drafter="mtp"),
        step(shadow=Shadow(3, True, True, 0.0)),
        step(cache=CacheHealth((CacheFault("seal", 0, "keys", 3, 1.0, 0.0),), 8, None, None, None)),
        replace(step(), end="length"),
        replace(step(), tokens=(), found=Finding("lane.failed", Grade.FALLBACK, "engine", 0, 0, "died")),
        replace(step(), tokens=(Token(1, "a", parts=(Part("call", "a"),)),)),
        replace(step(), tokens=(Token(1, "a"), Token(2, "b", finite=False))),
    ],
)
def test_what_does_not_wait(urgent: Delta) -> None:
    lag = Lag(Clock())
    assert lag.takes(step())
    assert not lag.takes(urgent)
    assert lag.take(urgent) == [step(), urgent]


# Nobody can tell


def both(script: Script, **more: Any) -> tuple[Played, Played]:
    """With steps that wait for each other, and with steps that never do."""
    return play(replace(script, step_ms=0.5), **more), play(replace(script, step_ms=LAG_MS * 2), **more)


@given(
    st.lists(st.sampled_from(["so ", LS, WRITE, "\n", "<think>", "</think>", RM, LOOPING, "\ue000"]), max_size=5),
    st.lists(st.sampled_from(["so ", LS, WRITE, "\n", RM, LOOPING]), max_size=4),
    st.integers(1, 9),
    st.data(),
)
def test_the_client_and_the_incidents_are_the_same(
    plain: list[str], fast: list[str], width: int, data: st.DataObject
) -> None:
    audited = data.draw(st.sets(st.integers(0, 200), max_size=6))
    script = Script("".join(plain), fast="".join(fast), width=width, audited=audited)
    waited, at_once = both(script, mode=FAST)
    assert waited.told() == at_once.told()
    assert waited.text == at_once.text
    assert waited.finished.token_ids == at_once.finished.token_ids
    assert waited.traces() == at_once.traces()

    def seen(played: Played) -> list[tuple[Any, ...]]:
        return [(each.detector, each.position, each.began, each.channel) for each in played.sink.incidents]

    assert seen(waited) == seen(at_once)


def test_what_a_bad_call_made_the_engine_compute_in_vain_is_counted() -> None:
    """The call is bad from its first line on; what was computed behind it is discarded, and said to be."""
    bad = WRITE.replace("<parameter=path>", "<parameter=mode>\nx\n</parameter>\n<parameter=path>")
    waited, at_once = both(Script(f"so {LS}", fast=f"so {bad}", width=2), mode=FAST)
    assert waited.told() == at_once.told() == ["<< text so", GOOD, "<< finished tool_calls in plain"]
    for played in (waited, at_once):
        (incident,) = played.sink.incidents
        (position, _, _) = played.generation.rewinds[0]
        assert played.finished.usage.discarded_tokens == incident.tokens_rewound
        assert position == len(cut("so "))
    steps = len(cut(f"so {WRITE}"))
    assert at_once.generation.steps <= waited.generation.steps <= at_once.generation.steps + steps


def test_a_plain_response_has_as_many_steps() -> None:
    waited, at_once = both(Script(f"so {WRITE}"), mode=PLAIN)
    assert waited.generation.steps == at_once.generation.steps
    assert waited.finished.timings.predicted_n == at_once.finished.timings.predicted_n
