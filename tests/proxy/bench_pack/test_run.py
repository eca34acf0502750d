"""Runs over a scripted agent: what is counted, what a bad mode shows, and what stays of a run that is stopped."""

from __future__ import annotations

import asyncio

import pytest

from proxy.bench_pack.recommend import recommend
from proxy.bench_pack.report import report
from proxy.bench_pack.run import Measured, Plan, Progress, run
from proxy.bench_pack.tasks import shipped
from proxy.bench_pack.workloads import QUICK
from proxy.config import ConfigProblem
from proxy.conversation import ChatRequest
from tests.proxy.bench_pack.played import agent, edit, opening

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


@pytest.mark.parametrize("after", [1, 9])
async def test_what_was_measured_stays(after: int) -> None:
    found = Measured()
    task = asyncio.create_task(_stopped(after, found))
    result = await task
    assert result is found and found.stopped
    assert sum(map(len, found.modes.values())) == after - 1


async def _stopped(after: int, found: Measured) -> Measured:
    return await run(opening(), shipped(), Plan(MODES, QUICK), Stops(after), found)
