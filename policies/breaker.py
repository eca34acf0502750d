"""Takes a decode mode out of service where it tripped, and lets it back after a canary has passed.

Must not: read a clock (seconds are an argument) or serve requests as probes: only canaries decide, because an engine
that computes wrongly answers 200 like a sound one.
Invariant: a mode whose breaker is not closed is not served; at most one breaker is half open at a time.

closed -> open: one certain trip, or likely ones that add up to `trips` within the window.
open -> half open: the cool-down is over and a canary begins. If it passes: closed; if it fails: open
again, for twice as long.

An open bucket of context lengths covers every longer one: what is broken at 2,000 tokens (a stale cache, lost
precision, a fault of long contexts) is broken at 20,000, whose responses read the same first 2,000. For the same reason
trips in shorter contexts count as evidence in longer ones. Never the other way round: the faults that speculation and
compressed caches are known for begin at some length, and shorter requests must not pay for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from policies.accusation import Accusation, Axis

EDGES = (1024, 4096, 16384, 32768, 65536, 131072, 262144)
"""Upper edges of the buckets in tokens of context; what is longer falls in one more."""
State = Literal["closed", "open", "half_open"]
MAX_TRIPS = 32
"""Kept per record; older ones have no say, and a file that grows for ever helps nobody."""
MAX_RECORDS = 256


def bucket_of(context: int) -> int:
    """Index of the bucket of a context length in tokens."""
    return next((i for i, edge in enumerate(EDGES) if context <= edge), len(EDGES))


def bucket_name(bucket: int) -> str:
    """As shown: `0-1k`, `16-32k`, `256k+`."""
    low = EDGES[bucket - 1] // 1024 if bucket else 0
    return f"{low}k+" if bucket == len(EDGES) else f"{low}-{EDGES[bucket] // 1024}k"


BUCKETS = tuple(bucket_name(bucket) for bucket in range(len(EDGES) + 1))


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """trips: likely ones within window_s that open. cool_down_s doubles with each opening, up to most_cool_down_s, and
    begins anew after window_s without one."""

    trips: int = 3
    window_s: float = 1800.0
    cool_down_s: float = 60.0
    most_cool_down_s: float = 3600.0

    def pause(self, openings: int) -> float:
        """Seconds of cool-down after so many openings in a row."""
        return min(self.cool_down_s * 2.0 ** min(openings - 1, 60), self.most_cool_down_s)


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What has a breaker of its own. mode: as written. Reads `mtp+ngram/k4v4@16-32k:qwen_xml#FINGERPRINT`."""

    fingerprint: str
    mode: str
    bucket: int
    tool_format: str

    def __str__(self) -> str:
        return f"{self.mode}@{bucket_name(self.bucket)}:{self.tool_format}#{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Trip:
    """time: seconds since the epoch. context: tokens, at which a canary will look."""

    incident: str
    time: float
    context: int
    accusation: Accusation


@dataclass(frozen=True, slots=True)
class Record:
    """until: when the cool-down ends. changed: of the state. openings: in a row. confirmed: a canary has failed since
    it opened, so that the trips are no longer all that speaks against the mode."""

    state: State = "closed"
    trips: tuple[Trip, ...] = ()
    until: float = 0.0
    changed: float = 0.0
    openings: int = 0
    confirmed: bool = False

    @property
    def axis(self) -> Axis:
        """What is accused; `unknown` if the trips disagree."""
        axes = {trip.accusation.axis for trip in self.trips}
        return axes.pop() if len(axes) == 1 else "unknown"

    @property
    def context(self) -> int:
        """The longest at which it tripped, in tokens."""
        return max((trip.context for trip in self.trips), default=0)

    @property
    def weight(self) -> float:
        return sum(trip.accusation.weight for trip in self.trips)


class Breaker:
    """All breakers of a server, whatever its model was."""

    def __init__(self, settings: BreakerSettings | None = None, records: Mapping[Key, Record] | None = None) -> None:
        self.settings = settings or BreakerSettings()
        self._records = {key: _woken(record) for key, record in (records or {}).items()}

    @property
    def records(self) -> Mapping[Key, Record]:
        return dict(self._records)

    def take_over(self, records: Mapping[Key, Record]) -> None:
        """Records that somebody else has changed. A canary that runs goes on, unless its record is gone."""
        running = {key for key, record in self._records.items() if record.state == "half_open"}
        self._records = {
            key: replace(record, state="half_open") if key in running else _woken(record)
            for key, record in records.items()
        }

    def blocking(self, fingerprint: str, mode: str, context: int, tool_format: str) -> tuple[Key, Record] | None:
        """The breaker that keeps a mode from serving so many tokens: of the shortest context, if there are several."""
        found: tuple[Key, Record] | None = None
        bucket = bucket_of(context)
        for key, record in self._records.items():  # no key is built: this is asked for each request
            if record.state == "closed" or key.bucket > bucket or key.mode != mode:
                continue
            if (key.fingerprint, key.tool_format) == (fingerprint, tool_format) and (not found or key < found[0]):
                found = key, record
        return found

    def trip(self, key: Key, trip: Trip, now: float) -> bool:
        """Takes a trip; True if a breaker opened by it."""
        record = self._records.get(key, Record())
        trips = (*self._recent(record, now), trip)[-MAX_TRIPS:]
        self._records[key] = replace(record, trips=trips)
        self._forget()
        return record.state == "closed" and self._weigh(key, now)

    def distrust(self, key: Key, trip: Trip, now: float, cool_down: bool = False) -> bool:
        """Opens a breaker for a reason that is no incident; True if it was closed. A canary may look at once, or after
        the first cool-down."""
        record = self._records.get(key, Record())
        if record.state != "closed":
            return False
        until = now + self.settings.pause(1) if cool_down else now
        trips = (*self._recent(record, now), trip)[-MAX_TRIPS:]
        self._records[key] = Record("open", trips, until, now, 1)
        self._forget()
        return True

    def revise(self, incident: str, accusation: Accusation | None, now: float) -> bool:
        """A trip is judged differently: None = it is nobody's fault but the model's. True if a state changed.

        A breaker that would not have opened by what is left closes, unless a canary has failed meanwhile.
        """
        changed = False
        for key, record in sorted(self._records.items()):
            if all(trip.incident != incident for trip in record.trips):
                continue
            looked = [_revised(trip, incident, accusation) for trip in record.trips]
            kept = tuple(trip for trip in looked if trip is not None)
            self._records[key] = revised = replace(record, trips=kept)
            if record.state == "closed":
                changed |= self._weigh(key, now)
            elif record.state == "open" and not record.confirmed and revised.weight < self.settings.trips:
                openings = max(0, record.openings - 1)
                self._records[key] = replace(revised, state="closed", changed=now, openings=openings)
                changed = True
        return changed

    def due(self, fingerprint: str, tool_format: str, now: float) -> Key | None:
        """The breaker that a canary should look at now: the shortest context first, since it covers the others.

        A cool-down that ends later than it can (the clock was set back, or the settings are other ones) begins anew.
        """
        for key, record in self._records.items():
            if record.state == "open" and record.until - now > self.settings.pause(record.openings):
                self._records[key] = replace(record, until=now + self.settings.pause(record.openings))
        if any(record.state == "half_open" for record in self._records.values()):
            return None
        waiting = [
            (key.bucket, record.until, key)
            for key, record in self._records.items()
            if (key.fingerprint, key.tool_format) == (fingerprint, tool_format)
            and record.state == "open"
            and self.remaining(record, now) <= 0
        ]
        return min(waiting)[2] if waiting else None

    def remaining(self, record: Record, now: float) -> float:
        """Seconds until the cool-down is over."""
        return min(record.until - now, self.settings.pause(record.openings)) if record.state == "open" else 0.0

    def begin(self, key: Key, now: float) -> None:
        """A canary begins. Raises ValueError unless `due` says so."""
        due, record = self.due(key.fingerprint, key.tool_format, now), self._records.get(key)
        if due is None or record is None or record.state != "open":
            raise ValueError(f"{key}: no canary may begin now")
        if self.remaining(record, now) > 0:
            raise ValueError(f"{key}: its cool-down is not over")
        self._records[key] = replace(self._records[key], state="half_open", changed=now)

    def passed(self, key: Key, now: float) -> None:
        """The canary found nothing: the mode is back. Raises ValueError if none was begun."""
        record = self._half_open(key)
        self._records[key] = replace(record, state="closed", trips=(), changed=now, confirmed=False)
        answered = {trip.incident for trip in record.trips}
        for shorter, other in self._shorter(key):
            kept = tuple(trip for trip in other.trips if trip.incident not in answered)
            self._records[shorter] = replace(other, trips=kept)

    def failed(self, key: Key, now: float) -> None:
        """The canary found the fault again."""
        record = self._half_open(key)
        self._records[key] = self._opened(replace(record, confirmed=True), now)

    def gave_up(self, key: Key, now: float, pause_s: float | None = None) -> None:
        """The canary came to no end or showed nothing: open as before, and again after `pause_s` (None = after the same
        cool-down)."""
        record = self._half_open(key)
        pause = self.settings.pause(record.openings) if pause_s is None else pause_s
        self._records[key] = replace(record, state="open", changed=now, until=now + pause)

    def reset(self, prefix: str = "") -> list[Key]:
        """Forgets the records whose key, as written, begins with `prefix`, and tells which."""
        gone = [key for key in sorted(self._records) if str(key).startswith(prefix)]
        for key in gone:
            del self._records[key]
        return gone

    def _weigh(self, key: Key, now: float) -> bool:
        """Opens the shortest context, from this one on, for which there is evidence enough."""
        for bucket in range(key.bucket, len(EDGES) + 1):
            wider = replace(key, bucket=bucket)
            record = self._records.get(wider)
            if record is None or record.state != "closed" or not record.trips:
                continue
            evidence = self._evidence(wider, record, now)
            if sum(trip.accusation.weight for trip in evidence) >= self.settings.trips:
                self._records[wider] = self._opened(replace(record, trips=evidence, confirmed=False), now)
                return True
        return False

    def _evidence(self, key: Key, record: Record, now: float) -> tuple[Trip, ...]:
        """The recent trips in this bucket, and those in shorter contexts, oldest first."""
        trips = {trip.incident: trip for trip in self._recent(record, now)}
        for _, other in self._shorter(key):
            trips |= {trip.incident: trip for trip in self._recent(other, now)}
        return tuple(sorted(trips.values(), key=lambda trip: trip.time)[-MAX_TRIPS:])

    def _shorter(self, key: Key) -> list[tuple[Key, Record]]:
        """Closed breakers of the same mode for shorter contexts."""
        keys = [replace(key, bucket=bucket) for bucket in range(key.bucket)]
        return [(k, self._records[k]) for k in keys if k in self._records and self._records[k].state == "closed"]

    def _recent(self, record: Record, now: float) -> tuple[Trip, ...]:
        """Trips that still count; those that opened a breaker do so while it is open."""
        if record.state != "closed":
            return record.trips
        return tuple(trip for trip in record.trips if now - trip.time <= self.settings.window_s)

    def _opened(self, record: Record, now: float) -> Record:
        quiet = record.state == "closed" and now - record.changed > self.settings.window_s
        openings = 1 if quiet else record.openings + 1
        until = now + self.settings.pause(openings)
        return replace(record, state="open", until=until, changed=now, openings=openings)

    def _half_open(self, key: Key) -> Record:
        record = self._records.get(key)
        if record is None or record.state != "half_open":
            raise ValueError(f"{key}: no canary was begun")
        return record

    def _forget(self) -> None:
        """Drops what changed longest ago beyond MAX_RECORDS, closed ones first."""
        if len(self._records) <= MAX_RECORDS:
            return
        oldest = sorted(self._records.items(), key=lambda item: (item[1].state != "closed", _latest(item[1])))
        for key, _ in oldest[: len(self._records) - MAX_RECORDS]:
            del self._records[key]


def _revised(trip: Trip, incident: str, accusation: Accusation | None) -> Trip | None:
    if trip.incident != incident:
        return trip
    return None if accusation is None else replace(trip, accusation=accusation)


def _latest(record: Record) -> float:
    return max([record.changed, *(trip.time for trip in record.trips)])


def _woken(record: Record) -> Record:
    """As read back after a restart: the canary that ran is gone, another may begin at once."""
    return replace(record, state="open", until=0.0) if record.state == "half_open" else record
