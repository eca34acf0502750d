"""Runs the workloads in all modes in turn, again and again, and the sweep over context lengths once.

Modes take turns at each step of a workload, and who begins changes from step to step, so that a machine that grows
slower or faster favours none. Where only one engine fits at a time, modes follow each other, in the opposite order in
every other round.

Must not: judge a mode, or lose what was measured when it is stopped.
Invariant: every mode gets the same requests in the same order, from a server that has seen none of them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.bench.pack.client import Answer
from proxy.bench.pack.figures import Figures, Trial, again, figures
from proxy.bench.pack.lanes import Lane, Opening, opened, require_some
from proxy.bench.pack.repairing import edited, repair
from proxy.bench.pack.scrape import Scrape
from proxy.bench.pack.tasks import Source
from proxy.bench.pack.vram import Vram, peak
from proxy.bench.pack.workloads import WRITES, Ask, Loop, Size, Workload, cold, far, workloads

ROOM = 2 * WRITES + 200
"""Tokens that a repair writes and reads behind its first prompt."""
MINUTES = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """lengths: tokens of context of the sweep, each with so many repairs. reach: tokens before the long-context repair,
    0 = a quarter of the window, at most 16384. rounds: how often the workloads are run at most; none but the first
    begins if it would not end before `minutes` are over. together: all engines stand side by side and modes take turns;
    else one engine at a time."""

    modes: tuple[str, ...]
    size: Size
    lengths: tuple[int, ...] = ()
    each: int = 4
    reach: int = 0
    seed: int = 0
    rounds: int = 1
    minutes: float = MINUTES
    together: bool = True


@dataclass(frozen=True, slots=True)
class Point:
    """Of the sweep. tokens: that first prompts were to have; by whole files, so it is some 100 more or less."""

    tokens: int
    figures: Figures


@dataclass(slots=True)
class Measured:
    """All that was measured so far. kv: what the caches of a prompt of so many tokens hold, (tokens, bytes) by mode,
    where it is told; vram: peaks on the device, as in `vram`. absent: modes that this model or server lacks, and why.
    rounds: that were run to their end. stopped: somebody has pressed Ctrl-C."""

    modes: dict[str, dict[str, Figures]] = field(default_factory=dict)
    kv: dict[str, tuple[int, int]] = field(default_factory=dict)
    vram: dict[str, Vram] = field(default_factory=dict)
    sweep: dict[str, list[Point]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    reach: int = 0
    window: int = 0
    rounds: int = 0
    stopped: bool = False


class Progress:
    """Is told how it goes; this one keeps quiet."""

    def begins(self, what: str, steps: int) -> None:
        """A workload in a mode."""

    def step(self) -> None:
        """One of its steps is done."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Characters of repository for so many tokens of prompt: as measured on this model, with this source."""

    base: int
    per_token: float

    def chars(self, tokens: int) -> int:
        return max(0, int((tokens - self.base) * self.per_token))


async def run(
    opening: Opening, source: Source, plan: Plan, progress: Progress, found: Measured | None = None
) -> Measured:
    """found: filled while it runs. A cancelled run returns what there is, marked as stopped. Raises ConfigProblem if
    there is none of these modes."""
    found = found if found is not None else Measured()
    started = time.monotonic()
    longest = 0.0
    try:
        while found.rounds < plan.rounds:
            began = time.monotonic()
            if found.rounds and began - started + longest > 60 * plan.minutes:
                break
            await _round(opening, source, plan, progress, found)
            found.rounds += 1
            longest = max(longest, time.monotonic() - began)
    except asyncio.CancelledError:
        found.stopped = True
    return found


async def _round(opening: Opening, source: Source, plan: Plan, progress: Progress, found: Measured) -> None:
    modes = [mode for mode in plan.modes if mode not in found.absent]
    if found.rounds % 2 and not plan.together:
        modes.reverse()
    for group in [modes] if plan.together else [[mode] for mode in modes]:
        with peak(group[0], found.vram, alone=not plan.together):
            async with opened(opening, group, found.absent) as lanes:
                if lanes:
                    await _group(lanes, source, plan, progress, found)
    require_some(found.modes, found.absent)


async def _group(lanes: Sequence[Lane], source: Source, plan: Plan, progress: Progress, found: Measured) -> None:
    """One round of these lanes; in the first one, memory before it and the sweep behind it."""
    first = not found.rounds
    for lane in lanes:
        found.about |= lane.about
        fit = await fitted(lane, source)
        window = found.window = lane.window
        most = (window or 16384 + ROOM) - ROOM
        found.reach = min(plan.reach or min((window or 65536) // 4, 16384), most)
        held = await _held(lane, source, fit, found.reach)  # in each round: servers have seen the same then
        if held is not None:
            found.kv[lane.mode] = held
        found.modes.setdefault(lane.mode, {})
    size = replace(
        plan.size,
        context=fit.chars(found.reach),
        cold=min(max(plan.size.cold, fit.chars(found.reach)), fit.chars(most)),
    )
    said = f"round {found.rounds + 1} of {plan.rounds}, " if plan.rounds > 1 else ""
    for workload in workloads(source, size, plan.seed):
        found.titles[workload.key] = workload.title
        for made in await measure_in_turns(lanes, source, workload, progress, said, found.rounds):
            before = found.modes[made.mode].get(workload.key)
            found.modes[made.mode][workload.key] = made if first or before is None else again(before, made)
    if first:
        for lane in lanes:
            found.sweep.setdefault(lane.mode, [])
        for length in sorted({min(length, most) for length in plan.lengths}):
            for one in await points(lanes, source, fit, length, plan.each, progress):
                found.sweep[one.figures.mode].append(one)


async def fitted(lane: Lane, source: Source) -> Fit:
    """Two prompts of known length, to learn how many characters are a token."""
    task, chars = source.tasks[0], 1500
    prompts = [far(source, task, each, 0).messages for each in (0, chars)]
    counted = []
    for messages in prompts:
        # to its end: an answer that is cut off is a trip, and the next one might begin in a safer mode
        answer = await lane.client.ask(_apart(messages), source.tools, **lane.fields, max_tokens=WRITES, temperature=0)
        counted.append(answer.prompt or sum(len(str(message)) for message in messages) // 4)
    shown = sum(len(str(message["content"])) for message in prompts[1]) - sum(
        len(str(m["content"])) for m in prompts[0]
    )
    return Fit(counted[0], max(0.2, shown / max(1, counted[1] - counted[0])))


async def point(lane: Lane, source: Source, fit: Fit, tokens: int, count: int, progress: Progress) -> Point:
    """Repairs behind so many tokens."""
    [made] = await points([lane], source, fit, tokens, count, progress)
    return made


async def points(
    lanes: Sequence[Lane], source: Source, fit: Fit, tokens: int, count: int, progress: Progress
) -> list[Point]:
    """The same repairs behind so many tokens in each lane."""
    tasks = source.tasks
    steps = tuple(
        far(source, tasks[-1 - number % len(tasks)], fit.chars(tokens), 3 + number * 5) for number in range(count)
    )
    workload = Workload(f"far@{tokens}", f"repair behind {tokens} tokens", "repair", steps)
    return [Point(tokens, made) for made in await measure_in_turns(lanes, source, workload, progress)]


async def _held(lane: Lane, source: Source, fit: Fit, tokens: int) -> tuple[int, int] | None:
    """(tokens, bytes) of a prompt that nobody has asked before: what the caches hold more than before it."""
    before = await _settled(lane)
    asked = cold(source, fit.chars(tokens) // 2, 900)
    answer = await lane.client.ask(_apart(asked.messages), asked.tools, **(dict(asked.fields) | dict(lane.fields)))
    after = await _settled(lane)
    if before is None or after is None or after <= before or not answer.prompt or answer.incidents:
        return None
    return answer.prompt, after - before


def _apart(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What is asked before the workloads begins otherwise, so that no prefix of theirs is kept when they come."""
    system, *others = messages
    return [{**system, "content": f"0 {system['content']}"}, *others]


async def _settled(lane: Lane) -> int | None:
    """Bytes, once they stay the same: a sequence is put away behind the end of its response."""
    last = (await lane.scrape()).kv_bytes
    for _ in range(20):
        await asyncio.sleep(0.05)
        now = (await lane.scrape()).kv_bytes
        if now == last:
            break
        last = now
    return last


async def measure(lane: Lane, source: Source, workload: Workload, progress: Progress) -> Figures:
    """One workload in one mode."""
    [made] = await measure_in_turns([lane], source, workload, progress)
    return made


async def measure_in_turns(
    lanes: Sequence[Lane], source: Source, workload: Workload, progress: Progress, said: str = "", turn: int = 0
) -> list[Figures]:
    """One workload; at each step every lane has its turn. turn: who begins at the first step."""
    modes = lanes[0].mode if len(lanes) == 1 else f"{len(lanes)} modes"
    progress.begins(f"{said}{modes}: {workload.title}", len(workload.steps) * len(lanes))
    before = [await lane.scrape() for lane in lanes]
    trials: list[list[Trial]] = [[] for _ in lanes]
    for number, step in enumerate(workload.steps):
        for place in range(len(lanes)):
            at = (turn + number + place) % len(lanes)
            trials[at].append(await _trial(lanes[at], source, workload, step))
            progress.step()
    return [
        await _figured(lane, workload, own, scraped) for lane, own, scraped in zip(lanes, trials, before, strict=True)
    ]


async def _figured(lane: Lane, workload: Workload, trials: Sequence[Trial], before: Scrape) -> Figures:
    made = figures(lane.mode, workload.key, trials, await lane.detectors())
    if made.acceptance is None and (drafts := (await lane.scrape()).drafts_since(before)) is not None:
        seen = figures(lane.mode, workload.key, [Trial("metrics", [Answer(drafts=drafts)], 0.0)])
        made = replace(made, acceptance=seen.acceptance, by_position=seen.by_position)
    return made


async def _trial(lane: Lane, source: Source, workload: Workload, step: Ask | Loop) -> Trial:
    started, used = time.perf_counter(), _processor_s()
    if isinstance(step, Loop):

        async def ask(messages: Sequence[Any]) -> Answer:
            fields = {"temperature": 0, "seed": 0, "max_tokens": WRITES, **lane.fields}
            return await lane.client.ask(messages, source.tools, **fields)

        done = await repair(ask, source, step.task, step.messages)
        return Trial(
            step.name,
            done.answers,
            done.seconds,
            _processor_s() - used,
            good=done.green,
            first_edit_s=done.first_edit_s,
            unknown=done.unknown,
            off=done.off,
            note=done.gave_up,
        )
    answer = await lane.client.ask(step.messages, step.tools, **(dict(step.fields) | dict(lane.fields)))
    seconds = time.perf_counter() - started
    good: bool | None = None
    edit_s = None
    if workload.judge == "edit" and step.task is not None:
        good = await asyncio.to_thread(edited, source, step.task, answer)
        edit_s = seconds if good else None
    elif workload.judge == "calls":
        good = bool(answer.calls) and not any(call.problem for call in answer.calls)
    return Trial(step.name, [answer], seconds, _processor_s() - used, good, edit_s)


def _processor_s() -> float:
    """Of this process, all its threads, and of its children that have ended: the load of others does not show in it."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
