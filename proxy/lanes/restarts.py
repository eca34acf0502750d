"""Notices that a lane's server was begun anew, or is another one: what probing has found of it may hold no more.

Must not: generate anything, or say what follows from it. Invariant: a server that answers as before is told of never,
one that was away or has changed once for each time.

What shows it: the server did not answer for a while; its version, its models or their windows are others; a counter of
its metrics stands lower than before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from proxy.lanes.asking import Asker, Target, Unanswered
from proxy.lanes.exposition import Exposition
from proxy.lanes.identity import scrape

log = structlog.get_logger()
EVERY_S = 15.0
ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Mark:
    """What is the same for as long as a server runs. metrics: counters, which only rise; None = there are none."""

    told: tuple[str, ...]
    metrics: Exposition | None

    def differs(self, before: Mark) -> str:
        """Why it is not the server from before, "" = it may be."""
        if self.told != before.told:
            return "it tells another version or other models"
        if self.metrics is not None and before.metrics is not None:
            then = before.metrics.series
            if any(key in then and now < then[key] for key, now in self.metrics.series.items()):
                return "its counters were begun anew"
        return ""


async def mark_of(asker: Asker) -> Mark:
    """Raises Unanswered for a server that is away."""
    cards = (await asker.get_object("/v1/models")).get("data")
    told = [
        f"{card.get('id')} {card.get('root')} {card.get('max_model_len')}"
        for card in (cards if isinstance(cards, list) else [])
        if isinstance(card, dict)
    ]
    for path, name in (("/version", "version"), ("/props", "build_info"), ("/get_server_info", "version")):
        try:
            told.append(f"{path} {(await asker.get_object(path)).get(name)}")
        except Unanswered as error:
            if not error.status:
                raise
    return Mark(tuple(sorted(told)), await scrape(asker, {}))


class Restarts:
    """Of one lane. away: it does not answer, or did not at the start. changed: told of a server that is not the one
    from before; whatever it raises as Unanswered counts as still being away."""

    def __init__(
        self, target: Target, changed: Callable[[str], Awaitable[None]], every_s: float = EVERY_S, away: bool = False
    ) -> None:
        self.target, self.away = target, away
        self._changed, self._every = changed, every_s
        self._mark: Mark | None = None

    async def run(self) -> None:
        """For ever."""
        async with Asker(self.target, ASK_S) as asker:
            while True:
                await self.look(asker)
                await asyncio.sleep(self._every)

    async def look(self, asker: Asker) -> None:
        """Once."""
        try:
            mark = await mark_of(asker)
        except Unanswered as error:
            if not self.away:
                log.warning("lane.away", lane=self.target.name, reason=str(error))
            self.away = True
            return
        before, self._mark = self._mark, mark
        why = "it was away" if self.away else "" if before is None else mark.differs(before)
        if not why:
            return
        try:
            await self._changed(why)
        except Unanswered as error:
            self.away = True
            log.warning("lane.away", lane=self.target.name, reason=str(error))
            return
        self.away = False
