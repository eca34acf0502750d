"""Steps that are waited for: each is counted once, in order, whoever put it aside and whatever ended the wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from detectors.finding import Finding
from detectors.stall import StallDetector
from policies.modes import PLAIN
from policies.trust import Limit
from proxy.backends.base import Delta
from proxy.backends.errors import BackendError
from proxy.conversation import ChatRequest
from proxy.guard.hold_clock import HoldClock
from proxy.guard.steps import NEXT_STEP, Steps
from proxy.guard.transcript import Transcript
from proxy.guard.watchdog import Stalled, Watchdog
from tests.proxy.played import REQUEST
from tests.proxy.scripted import Script, ScriptedGeneration
from tests.virtual_time import run

TEN = "a b c d e f g h i j"
PROMPT = 100


def clock() -> float:
    return 0.0


async def no_pause() -> None:
    pass


def steps_of(
    script: Script, limit: Limit | None = None, pace: Callable[..., object] = no_pause
) -> tuple[Steps, Transcript]:
    request: ChatRequest = REQUEST
    transcript = Transcript()
    generation = ScriptedGeneration(script, PLAIN, request, PROMPT, pace)  # type: ignore[arg-type]
    watchdog = Watchdog(True, StallDetector())
    return Steps(generation, transcript, watchdog, HoldClock(0.0, clock), clock, limit), transcript


def nobody(finding: Finding) -> None:
    raise AssertionError(finding)


def positions(deltas: list[Delta]) -> list[int]:
    return [delta.position for delta in deltas]


@pytest.mark.parametrize("bursts", [False, True])
def test_steps_that_wait_are_counted_and_given_with_the_next(bursts: bool) -> None:
    async def work() -> None:
        steps, transcript = steps_of(Script(TEN, step_ms=10.0, bursts=bursts))
        first = await steps.next("no", nobody)
        assert first is not None
        assert positions(steps.take(first)) == [0], "no call is open: nothing waits"
        last = await steps.next("for any", nobody)
        assert last is not None
        assert transcript.reach == last.position + 1
        taken = steps.take(last)
        assert positions(taken) == list(range(1, last.position + 1))
        assert len(taken) > 1
        assert len(transcript.steps) == 1 + len(taken)

    run(work())


@pytest.mark.parametrize("bursts", [False, True])
def test_words_wait_only_for_what_is_made_at_once(bursts: bool) -> None:
    async def work() -> None:
        steps, _ = steps_of(Script(TEN, step_ms=10.0, bursts=bursts))
        last = await steps.next("in a row", nobody)
        assert last is not None
        assert positions(steps.take(last)) == ([0, 1, 2] if bursts else [0])

    run(work())


@pytest.mark.parametrize("bursts", [False, True])
def test_no_step_waits_that_the_next_could_leave_the_limit_behind(bursts: bool) -> None:
    async def work() -> None:
        limit = Limit(PROMPT + NEXT_STEP + 3, PLAIN)
        steps, _ = steps_of(Script(TEN, step_ms=0.1, bursts=bursts), limit)
        delta = await steps.next("for any", nobody)
        assert delta is not None
        assert delta.step.context == PROMPT + 4
        assert not steps.is_within(delta.step.context)
        steps.limit = None
        assert steps.is_within(delta.step.context)

    run(work())


@pytest.mark.parametrize("bursts", [False, True])
def test_what_came_before_a_failure_is_counted(bursts: bool) -> None:
    async def work() -> None:
        steps, transcript = steps_of(Script(TEN, step_ms=0.1, fail_at=6, bursts=bursts))
        with pytest.raises(BackendError):
            await steps.next("for any", nobody)
        assert positions(steps.take()) == list(range(6))
        assert transcript.reach == 6

    run(work())


@pytest.mark.parametrize("bursts", [False, True])
def test_a_late_step_is_awaited_behind_those_that_came(bursts: bool) -> None:
    count = 0

    async def pace() -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(0.001 if count <= 5 else 1e9)

    async def work() -> None:
        steps, transcript = steps_of(Script(TEN, step_ms=0.1, bursts=bursts), None, pace)
        late: list[Finding] = []
        with pytest.raises(Stalled):
            await steps.next("for any", late.append)
        assert transcript.reach == 5
        assert positions(steps.take()) == list(range(5))
        assert late

    run(work())


def test_a_step_that_comes_after_its_wait_was_given_up_is_counted_or_not_taken() -> None:
    """The engine's thread asks about a step whenever that comes; nobody waits for it any more."""
    asked: list[Callable[[Delta], bool]] = []

    async def work() -> None:
        steps, transcript = steps_of(Script(TEN, step_ms=0.1))
        generation = steps._generation
        first = await generation.next()
        assert first is not None

        async def hangs(waits: Callable[[Delta], bool] | None = None) -> Delta | None:
            assert waits is not None
            asked.append(waits)
            await asyncio.sleep(1e9)
            return None

        generation.next = hangs  # type: ignore[method-assign]
        waiting = asyncio.ensure_future(steps.next("in a row", nobody))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not asked[0](first), "it goes on for nobody"
        assert steps.take() == []
        assert transcript.reach == 0

    run(work())
