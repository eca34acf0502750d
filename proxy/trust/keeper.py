"""Hears of incidents, keeps the breakers, and says in which mode a request starts.

Must not: generate anything (canaries do), block, or raise into a response.
Invariant: every change of a breaker is handed to the store before the next request is answered.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from policies.accusation import CERTAIN, Accusation, Axis, accuse
from policies.breaker import Breaker, BreakerSettings, Key, Record, Trip, bucket_name, bucket_of
from policies.modes import DecodeMode
from policies.qualification import Qualification
from policies.trust import Served, Start, Trust, rungs, start_mode
from proxy.incidents import Closure, Incident, Judgement
from proxy.replays.capture import Capture
from proxy.trust.store import TrustStore

log = structlog.get_logger()
LOOK_S = 1.0
"""How often the store is looked at for changes by others; not for each request, because some disks are slow."""
REMEMBERED = 1024
"""Incidents whose closure or judgement may still come."""


@dataclass(slots=True)
class _Opened:
    """What of an incident is needed to weigh it later."""

    incident: Incident
    outcome: str = ""
    counted: bool = False


class TrustKeeper:
    """Of one server. now: seconds since the epoch, also after a restart. An incident sink.

    changed: set whenever a breaker may have changed; whoever waits for it clears it.
    """

    def __init__(
        self, store: TrustStore, settings: BreakerSettings | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self.store = store
        self.trust = Trust(Served("", "", 0))
        self.note = ""
        self.changed = asyncio.Event()
        self._now = now
        self._breaker = Breaker(settings)
        self._incidents: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.RLock()
        self._modes: tuple[str, ...] = ()
        self._looked = 0.0
        self._saves = 0

    def serve(
        self,
        served: Served,
        modes: tuple[str, ...],
        qualification: Qualification | None = None,
        ceiling_tokens: int = 0,
    ) -> None:
        """The model is known now. A qualification of another one says nothing about it: no mode is trusted then, unless
        ceiling_tokens says how far. Reads the store: blocks."""
        self.note = qualification.voided(served.fingerprint, served.tool_format) if qualification else ""
        if self.note:
            log.warning("trust.qualification_void", reason=self.note)
            qualification = None
        self.trust, self._modes = Trust(served, qualification, ceiling_tokens, self.note), modes
        self._reload()

    async def start(
        self,
        wanted: DecodeMode,
        count: Callable[[], Awaitable[int]],
        fits: Callable[[DecodeMode, int], bool] | None = None,
    ) -> Start:
        """The mode for a request. count: tokens of its prompt, asked for only if the answer depends on them.

        fits: whether a mode's cache has room for so many tokens; None = all have.
        """
        await self.look()
        if fits is None or wanted.codec == "full":  # then nothing takes more room than what was wanted
            fits = _all_fit
        with self._lock:
            start = start_mode(wanted, 0, self.trust, self._breaker, self._modes)
        if start.limit is None and (start.mode == wanted or fits is _all_fit):
            return start
        tokens, fitting = await count(), fits
        with self._lock:
            return start_mode(
                wanted, tokens, self.trust, self._breaker, self._modes, lambda mode: fitting(mode, tokens)
            )

    async def look(self, at_once: bool = False) -> None:
        """Takes over what others have changed (`specguard trust reset`): else the next save would undo it.

        at_once: however short ago it was looked.
        """
        if at_once or abs(self._now() - self._looked) >= LOOK_S:
            self._looked = self._now()
            if await asyncio.to_thread(self.store.changed_elsewhere):
                await asyncio.to_thread(self._reload)

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        self._incidents[incident.id] = entry = _Opened(incident)
        while len(self._incidents) > REMEMBERED:
            self._incidents.popitem(last=False)
        self._take(entry, accuse(incident.detector, incident.action, DecodeMode.parse(incident.mode_before)))

    def closed(self, closure: Closure) -> None:
        if (entry := self._incidents.get(closure.id)) is not None:
            entry.outcome = closure.outcome
            self._weigh(entry, str(closure.culprit), closure.certainty)

    def judged(self, judgement: Judgement) -> None:
        """A replay has found out more than the response did: its verdict replaces the other one."""
        if (entry := self._incidents.pop(judgement.id, None)) is not None and judgement.certainty != "none":
            self._weigh(entry, str(judgement.culprit), judgement.certainty)

    def distrust(self, mode: str, context: int, cause: str, axis: Axis, cool_down: bool = False) -> None:
        """Takes a mode out of service at a context for a reason that is no incident, such as a known-bad pair."""
        served, now = self.trust.served, self._now()
        key = Key(served.fingerprint, mode, bucket_of(context), served.tool_format)
        with self._lock:
            opened = self._breaker.distrust(key, Trip(cause, now, context, Accusation(axis, CERTAIN)), now, cool_down)
        if opened:
            self._save()
            log.warning("breaker.opened", key=str(key), accused=axis, cause=cause)

    @property
    def records(self) -> dict[Key, Record]:
        """Those of the model that is served."""
        served = self.trust.served
        with self._lock:
            records = self._breaker.records
        return {k: r for k, r in sorted(records.items()) if _belongs(k, served)}

    def due(self) -> Key | None:
        """The breaker that a canary should look at now."""
        with self._lock:
            return self._breaker.due(self.trust.served.fingerprint, self.trust.served.tool_format, self._now())

    def next_due_s(self) -> float | None:
        """Seconds until one may be due; None = none is open."""
        now = self._now()
        waits = [self._breaker.remaining(r, now) for r in self.records.values() if r.state == "open"]
        return max(0.0, min(waits)) if waits else None

    def begin(self, key: Key) -> Record:
        """A canary begins; raises ValueError unless it is due."""
        with self._changing(key, "breaker.half_open"):
            self._breaker.begin(key, self._now())
        return self._breaker.records[key]

    def passed(self, key: Key, why: str) -> None:
        with self._changing(key, "breaker.closed", why):
            self._breaker.passed(key, self._now())

    def failed(self, key: Key, why: str) -> None:
        with self._changing(key, "breaker.opened", why):
            self._breaker.failed(key, self._now())

    def gave_up(self, key: Key, why: str, pause_s: float | None = None) -> None:
        """pause_s: None = the same cool-down again."""
        with self._changing(key, "breaker.canary_gave_up", why):
            self._breaker.gave_up(key, self._now(), pause_s)

    def detail(self, mode: DecodeMode) -> dict[str, Any]:
        """For `/ready`: the breakers with something to tell, and up to where modes are trusted."""
        now, breakers = self._now(), []
        for key, record in self.records.items():
            shown: dict[str, Any] = {
                "mode": key.mode,
                "bucket": bucket_name(key.bucket),
                "state": record.state,
                "accused": record.axis if record.trips else None,
                "trips": len(record.trips),
                "context": record.context,
            }
            if record.state == "open":
                shown["canary_in_s"] = round(max(0.0, self._breaker.remaining(record, now)), 1)
            breakers.append(shown)
        ceilings = {
            str(each): {"tokens": found.tokens, "why": found.why or None}
            for each, found in ((each, self.trust.ceiling(each)) for each in (mode, *rungs(mode, None)))
        }
        source = "configured" if self.trust.qualification is None else self.trust.qualification.created
        return {"breakers": breakers, "trusted": ceilings, "qualified": source, "note": self.note or None}

    def close(self) -> None:
        """Flushes; blocks."""
        self.store.close()

    def _weigh(self, entry: _Opened, culprit: str, certainty: str) -> None:
        incident = entry.incident
        mode = DecodeMode.parse(incident.mode_before)
        self._take(entry, accuse(incident.detector, incident.action, mode, culprit, certainty, entry.outcome))

    def _take(self, entry: _Opened, accusation: Accusation | None) -> None:
        incident, now = entry.incident, self._now()
        key = Key(
            incident.fingerprint, incident.mode_before, bucket_of(incident.context), self.trust.served.tool_format
        )
        with self._lock:
            before = self._breaker.records
            if entry.counted:
                self._breaker.revise(incident.id, accusation, now)
            elif accusation is not None:
                self._breaker.trip(key, Trip(incident.id, now, incident.context, accusation), now)
            entry.counted = entry.counted or accusation is not None
            after = self._breaker.records
        if after == before:
            return
        self._save()
        for each, record in after.items():
            if record.state != (before[each].state if each in before else "closed"):
                event = "breaker.opened" if record.state == "open" else "breaker.closed"
                log.warning(event, key=str(each), accused=record.axis, trips=len(record.trips), incident=incident.id)

    @contextmanager
    def _changing(self, key: Key, event: str, why: str = "") -> Iterator[None]:
        with self._lock:
            yield
        self._save()
        log.info(event, key=str(key), why=why or None)

    def _save(self) -> None:
        with self._lock:
            self._saves += 1
            self.store.save(self._breaker.records)
        self.changed.set()

    def _reload(self) -> None:
        saves = self._saves
        records = self.store.load()
        with self._lock:
            if saves == self._saves:  # else what is here is newer than what was read
                self._breaker.take_over(records)


def _all_fit(_mode: DecodeMode, _tokens: int) -> bool:
    return True


def _belongs(key: Key, served: Served) -> bool:
    return (key.fingerprint, key.tool_format) == (served.fingerprint, served.tool_format)
