"""Acceptance of a lane's drafts as its metrics tell it: read in the background, used to corroborate, never to convict.

Must not: keep a response waiting, or say anything about corruption by itself: loops raise acceptance to 1, damaged
states lower it to 0, and in the worst faults it looks normal. It is of the whole server, not of a response.
Invariant: what cannot be told is None; a server that draws no drafts is not one whose drafts are all refused.

Two things may be said. `dead`: of so many drafted tokens not one was accepted; that costs speed, not truth.
`saturated`: nearly all were; together with a loop in the text that makes the loop surer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import structlog

from proxy.lanes.asking import METRICS_BYTES, Asker, Target, Unanswered
from proxy.lanes.exposition import Exposition, Unreadable, together

log = structlog.get_logger()
EVERY_S = 5.0
WINDOW_S = 30.0
SCRAPE_S = 3.0
"""A scrape that takes longer is given up; the next one is due anyhow."""
ENOUGH = 50
"""Drafted tokens before anything is said. With an acceptance of 0.1, the lowest that pays, none of 50 is accepted once
in 190 windows."""
SATURATED = 0.98
"""In loops 0.97 to 1.0 was seen at each place of a draft (vllm-project/vllm#55506); verbatim copies of files come near
it too (kekzl/imp#1460), which is why it never speaks alone."""
Verdict = Literal["dead", "saturated", "normal"]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Within the window. rate: accepted tokens of drafted ones, or as the server averages it. steps: verifications;
    None = not told. seconds: that the window spans."""

    drafted: int | None
    accepted: int | None
    steps: int | None
    rate: float
    seconds: float

    @property
    def verdict(self) -> Verdict:
        if self.rate <= 0.0:
            return "dead"
        return "saturated" if self.rate >= SATURATED else "normal"

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        counts = {"drafted": self.drafted, "accepted": self.accepted, "steps": self.steps}
        return counts | {"rate": round(self.rate, 4), "seconds": round(self.seconds, 1), "verdict": self.verdict}


@dataclass(slots=True)
class AcceptanceMeter:
    """Scrapes in, acceptance out. Pure: time is an argument."""

    window_s: float = WINDOW_S
    _scrapes: deque[tuple[float, Exposition]] = field(default_factory=deque)

    def take(self, now: float, exposition: Exposition) -> None:
        """A scrape that came. One older than the window is kept, as what the window is measured from."""
        self._scrapes.append((now, exposition))
        while len(self._scrapes) > 2 and now - self._scrapes[1][0] >= self.window_s:
            self._scrapes.popleft()

    def forget(self) -> None:
        """Nothing is known of the time in between: begin anew."""
        self._scrapes.clear()

    def read(self, now: float) -> Acceptance | None:
        """None: too little was drafted, nothing tells of drafts, or the last scrape is too old."""
        if len(self._scrapes) < 2 or now - self._scrapes[-1][0] > self.window_s:
            return None
        parts = list(self._scrapes)
        seconds = parts[-1][0] - parts[0][0]
        totals = {name: 0.0 for name in ("drafted", "accepted", "drafts", "verified")}
        for (_, before), (_, after) in pairwise(parts):
            for name in totals:  # one by one, so that an engine that was restarted in between is seen
                totals[name] += after.grown(name, before)
        newest = parts[-1][1]
        if newest.tells("drafted"):
            if totals["drafted"] < ENOUGH or not newest.tells("accepted"):
                return None
            drafted, accepted = int(totals["drafted"]), int(min(totals["accepted"], totals["drafted"]))
            steps = int(totals["drafts"]) if newest.tells("drafts") else None
            return Acceptance(drafted, accepted, steps, accepted / drafted, seconds)
        rates = newest.gauges.get("rate", ())
        if not rates or totals["verified"] < ENOUGH:  # a gauge stays where it was when nobody asks
            return None
        return Acceptance(None, None, int(totals["verified"]), sum(rates) / len(rates), seconds)


@dataclass(slots=True)
class TimedAcceptance:
    """Acceptance of a lane whose responses tell it themselves, as llama.cpp's `timings` do. Pure."""

    window_s: float = WINDOW_S
    _responses: deque[tuple[float, int, int]] = field(default_factory=deque)

    def take(self, now: float, drafted: int, accepted: int) -> None:
        """A response has ended. Numbers that cannot be are not counted."""
        if drafted > 0 and 0 <= accepted <= drafted:
            self._responses.append((now, drafted, accepted))
        self._forget(now)

    def read(self, now: float) -> Acceptance | None:
        """None: too little was drafted within the window."""
        self._forget(now)
        drafted, accepted = (sum(column) for column in list(zip(*self._responses, strict=True))[1:] or ((), ()))
        if drafted < ENOUGH:
            return None
        return Acceptance(int(drafted), int(accepted), None, accepted / drafted, now - self._responses[0][0])

    def _forget(self, now: float) -> None:
        while self._responses and now - self._responses[0][0] > self.window_s:
            self._responses.popleft()


def beside_loop(found: Acceptance | None) -> Mapping[str, Any]:
    """Numbers to add to a loop that was found in the text; empty where they add nothing."""
    if found is None or found.verdict == "normal":
        return {}
    return {"lane_acceptance": found.rate, "lane_drafted": found.drafted, "lane_seconds": found.seconds}


class MetricsSignal:
    """Of one lane. problem: why there is nothing to read, "" = there is.

    changed: told when a verdict changes, with what it is from now on.
    """

    def __init__(
        self,
        target: Target,
        every_s: float = EVERY_S,
        changed: Callable[[Verdict, Acceptance], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target, self.problem = target, ""
        self._every, self._changed, self._clock = every_s, changed, clock
        self._meter = AcceptanceMeter()
        self._last: Verdict = "normal"

    @property
    def acceptance(self) -> Acceptance | None:
        return self._meter.read(self._clock())

    async def run(self) -> None:
        """For ever. Never raises but when it is cancelled."""
        async with Asker(self.target, SCRAPE_S, METRICS_BYTES) as asker:
            while True:
                await self.scrape(asker)
                await asyncio.sleep(self._every)

    async def scrape(self, asker: Asker) -> None:
        """Once, all engines at the same time. If one does not answer, the window begins anew: sums with and without it
        are not to be compared."""
        answers = await asyncio.gather(*(self._one(asker, address) for address in self.target.scraped))
        missing = [why for each, why in answers if each is None]
        problem = "; ".join(dict.fromkeys(missing))[:400]
        if problem != self.problem:
            self.problem = problem
            if problem:
                log.warning("lane.metrics_missing", lane=self.target.name, reason=problem)
        parts = [each for each, _ in answers if each is not None]
        if missing or not parts:
            self._meter.forget()
            return
        self._meter.take(self._clock(), together(parts))
        found = self.acceptance
        verdict = "normal" if found is None else found.verdict
        if found is not None and verdict != self._last and self._changed is not None:
            self._changed(verdict, found)
        self._last = verdict

    @staticmethod
    async def _one(asker: Asker, address: str) -> tuple[Exposition | None, str]:
        try:
            text = (await asker.get(address)).decode("utf-8", "replace")
            return await asyncio.to_thread(Exposition.parse, text, address), ""
        except (Unanswered, Unreadable) as error:
            return None, str(error) if isinstance(error, Unanswered) else f"{address}: {error}"
