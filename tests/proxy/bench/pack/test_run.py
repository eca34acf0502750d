"""Runs over a scripted agent: what is counted, what a bad mode shows, and what stays of a run that is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import pytest

from proxy.bench.pack.lanes import Lane
from proxy.bench.pack.recommend import recommend
from proxy.bench.pack.report import report
from proxy.bench.pack.run import Measured, Plan, Progress, run
from proxy.bench.pack.tasks import shipped
from proxy.bench.pack.workloads import QUICK, Size
from proxy.configuration.config import ConfigProblem
from proxy.conversation import ChatRequest
from tests.proxy.bench.pack.played import agent, edit, opening

MODES = ("plain", "mtp+ngram/full")
PLAN = Plan(MODES, QUICK, lengths=(600,), each=1)


async def test_a_sound_mode_says_what_plain_says() -> None:
    found = await run(opening(), shipped(), PLAN, Progress())
    assert not found.stopped and list(found.modes) == list(MODES) and found.window == 4096
    plain, fast = (found.modes[mode] for mode in MODES)
    assert list(plain) == ["cold", "patch", "json", "far", "markdown", "loop", "quality"]
    for key, figures in plain.items():
        assert figures.text == fast[key].text and figures.failures == figures.loops == figures.trips == 0
        if key not in ("cold", "markdown"):
            assert figures.passed is not None and figures.passed.value == 1, key
            assert figures.valid is not None and figures.valid.value == 1, key
    assert fast["quality"].acceptance is not None and fast["quality"].by_position[0][0] > 0
    assert plain["quality"].first_edit_s is not None and plain["quality"].unknown_names == 0
    assert plain["quality"].lines_off == 0
    [point] = found.sweep["plain"]
    assert point.figures.trials == 1 and point.figures.prompt_tokens > 500
    advice = recommend({m: {k: f.plain() for k, f in own.items()} for m, own in found.modes.items()})
    assert not any(verdict.against for verdict in advice.verdicts)


async def test_a_mode_that_breaks_repairs_is_seen() -> None:
    def wrong(request: ChatRequest) -> str | None:
        said = agent(request)
        task = next((t for t in shipped().tasks if t.output in request.messages[1].text), None)
        return edit(task, wrong=True) if task is not None and "<function=edit_file>" in said else None

    found = await run(opening(wrong), shipped(), Plan(MODES, QUICK), Progress())
    fast = found.modes["mtp+ngram/full"]
    assert fast["quality"].passed is not None and fast["quality"].passed.value == 0
    assert fast["patch"].passed is not None and fast["patch"].passed.value == 0
    assert fast["quality"].text != found.modes["plain"]["quality"].text
    assert fast["json"].text == found.modes["plain"]["json"].text


async def test_a_mode_that_breaks_calls_trips_the_guard() -> None:
    def broken(request: ChatRequest) -> str | None:
        return "<tool_call>\n<function=nowhere>\n</function>\n</tool_call>"

    found = await run(opening(broken), shipped(), Plan(MODES, QUICK), Progress())
    fast = found.modes["mtp+ngram/full"]
    for key, figures in fast.items():
        assert figures.trips + figures.refused >= 1, f"{key}: it trips, or the breaker is open already"
    advice = recommend({m: {k: f.plain() for k, f in own.items()} for m, own in found.modes.items()})
    assert advice.mode == "plain" and "Not mtp+ngram/full: cold: " in advice.words


async def test_a_mode_that_the_model_lacks_costs_nothing_of_the_others() -> None:
    """The modes that are measured by default need an MTP head and heads that can be coded."""
    modes = ("plain", "mtp/k8v8", "mtp+ngram/full")
    found = await run(opening(), shipped(), Plan(modes, QUICK), Progress())
    assert list(found.modes) == ["plain", "mtp+ngram/full"] and "k8v8" in found.absent["mtp/k8v8"]
    assert "k8v8" in report(found, PLAN, "test").unmeasured["mode mtp/k8v8"]
    with pytest.raises(ConfigProblem, match="k8v8"):
        await run(opening(), shipped(), Plan(modes[1:2], QUICK), Progress())


async def test_nothing_of_a_workload_is_asked_before_it() -> None:
    """Else its prompt would be kept already, and its prefill nearly free."""
    asked: list[str] = []

    def listening(request: ChatRequest) -> str | None:
        asked.append("\n".join(message.text for message in request.messages))
        return None

    await run(opening(listening), shipped(), Plan(MODES[1:], QUICK), Progress())
    before, workloads = asked[:3], asked[3:]
    assert workloads and {text[:20] for text in before}.isdisjoint({text[:20] for text in workloads})


class Stops(Progress):
    """Presses Ctrl-C when a workload begins for the nth time."""

    def __init__(self, after: int) -> None:
        self.left, self.task = after, asyncio.current_task()

    def begins(self, what: str, steps: int) -> None:
        self.left -= 1
        if self.left == 0 and self.task is not None:
            self.task.cancel()


@pytest.mark.parametrize("after", [1, 5])
async def test_what_was_measured_stays(after: int) -> None:
    found = Measured()
    task = asyncio.create_task(_stopped(after, found))
    result = await task
    assert result is found and found.stopped
    assert [len(own) for own in found.modes.values()] == [after - 1] * 2 and found.rounds == 0


async def test_a_second_round_that_is_stopped_leaves_the_first_whole() -> None:
    found = Measured()
    plan = Plan(MODES, QUICK, rounds=3)
    result = await asyncio.create_task(_stopped(7 + 3, found, plan))
    assert result.stopped and result.rounds == 1
    rounds = {key: len(figures.timed) for key, figures in found.modes["plain"].items()}
    assert rounds == {"cold": 2, "patch": 2, "json": 1, "far": 1, "markdown": 1, "loop": 1, "quality": 1}
    made = report(found, plan, "test")
    assert made.data["stopped"] is False and made.settings["rounds"] == "1 of 3, then stopped"
    assert "of one round nothing is recommended" in made.data["recommendation"]["words"]


@pytest.mark.parametrize("together", [True, False])
async def test_modes_take_turns(together: bool) -> None:
    """And none is always the first."""
    asked: list[str] = []
    wanted = ("plain", "mtp+ngram/full", "ngram/full")

    def spy(mode: str, answer: Any) -> Any:
        asked.append(mode)
        return answer

    plan = Plan(wanted, Size(repairs=1, far=1, times=3, few=3), rounds=2, together=together)
    plain = opening()

    @asynccontextmanager
    async def watched(mode: str) -> AsyncIterator[Lane]:
        async with plain(mode) as lane:
            ask = lane.client.ask

            async def asking(*given: Any, **fields: Any) -> Any:
                return spy(mode, await ask(*given, **fields))

            lane.client.ask = asking  # type: ignore[method-assign]
            yield lane

    found = await run(watched, shipped(), plan, Progress())
    assert found.rounds == 2 and all(len(f.timed) == 2 for own in found.modes.values() for f in own.values())
    if together:
        before = 3 * len(wanted)  # what is asked before the workloads
        cold = asked[before : before + 9]
        assert cold == [*wanted, *wanted[1:], wanted[0], wanted[2], *wanted[:2]]
        second = asked[len(asked) // 2 :][before : before + 3]
        assert second == [*wanted[1:], wanted[0]]
    else:
        order = [mode for mode, _ in groupby(asked)]
        assert order == ["plain", "mtp+ngram/full", "ngram/full", "mtp+ngram/full", "plain"]


async def test_no_round_begins_that_would_take_too_long() -> None:
    found = await run(opening(), shipped(), Plan(MODES, QUICK, rounds=3, minutes=0.0), Progress())
    assert found.rounds == 1 and not found.stopped


async def test_a_mode_that_is_wrong_in_a_later_round_is_wrong() -> None:
    seen: list[int] = []

    def tired(request: ChatRequest) -> str | None:
        seen.append(1)
        return "Something else." if len(seen) > 40 else None

    found = await run(opening(tired), shipped(), Plan(MODES, QUICK, rounds=2), Progress())
    fast = found.modes["mtp+ngram/full"]
    assert fast["quality"].passed is not None and fast["quality"].passed.value == 0
    assert any("says something else" in reason for reason in _verdict(found, "mtp+ngram/full"))


def _verdict(found: Measured, mode: str) -> tuple[str, ...]:
    advice = recommend({m: {k: f.plain() for k, f in own.items()} for m, own in found.modes.items()})
    return next(verdict.against for verdict in advice.verdicts if verdict.mode == mode)


async def _stopped(after: int, found: Measured, plan: Plan | None = None) -> Measured:
    return await run(opening(), shipped(), plan or Plan(MODES, QUICK), Stops(after), found)
