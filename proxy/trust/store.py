"""Keeps the breakers across restarts: one small JSON file beside the incident store.

Must not: block the event loop (a thread of its own writes), or end a server because of a file that cannot be read.
Invariant: the file is replaced as a whole, so whoever reads it, also after kill -9, sees one state or the next one.
"""

from __future__ import annotations

import contextlib
import glob
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from policies.accusation import CERTAIN, Accusation, Axis
from policies.breaker import BUCKETS, MAX_RECORDS, MAX_TRIPS, Key, Record, State, Trip, bucket_name

log = structlog.get_logger()
MAX_BYTES = 4 << 20
Stamp = tuple[int, int, int]


class TrustFileProblem(Exception):
    """The file is there and cannot be used; the message says why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _TripRow(_Part):
    incident: str = Field(max_length=64)
    time: float
    context: int = Field(ge=0)
    axis: Axis
    weight: float | Literal["certain"]


class _RecordRow(_Part):
    fingerprint: str = Field(max_length=256)
    mode: str = Field(max_length=64)
    bucket: str
    tool_format: str = Field(max_length=64)
    state: State
    until: float
    changed: float
    openings: int = Field(ge=0)
    confirmed: bool
    trips: list[_TripRow] = Field(max_length=MAX_TRIPS)


class _File(_Part):
    format: Literal["specguard.trust"] = "specguard.trust"
    version: Literal[1] = 1
    records: list[_RecordRow] = Field(max_length=MAX_RECORDS)


def beside(incidents: Path) -> Path:
    """Where the file lies unless the configuration says otherwise."""
    return incidents.with_name(f"{incidents.stem}.trust.json")


def read(path: Path) -> dict[Key, Record]:
    """What a file says; nothing if there is none. Raises TrustFileProblem."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TrustFileProblem(error.strerror or str(error)) from None
    if len(data) > MAX_BYTES:
        raise TrustFileProblem(f"it has more than {MAX_BYTES} bytes")
    try:
        rows = _File.model_validate_json(data).records
        return {_key(row): _record(row) for row in rows}
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise TrustFileProblem(f"{'.'.join(map(str, problem['loc'])) or 'JSON'}: {problem['msg']}") from None
    except ValueError as error:
        raise TrustFileProblem(str(error)) from None


def write(path: Path, records: Mapping[Key, Record]) -> None:
    """Replaces the file. Raises OSError."""
    file = _File(records=[_row(key, record) for key, record in sorted(records.items())])
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{_draft(path)}{os.getpid()}-{threading.get_ident()}")
    try:
        with draft.open("wb") as out:
            out.write(file.model_dump_json(indent=1).encode())
            out.flush()
            os.fsync(out.fileno())
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    _sync_folder(path.parent)


class TrustStore:
    """The file of one server. Others may change it meanwhile (`specguard trust reset`): `changed_elsewhere` tells."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._pending: dict[Key, Record] | None = None
        self._writer: threading.Thread | None = None
        self._closing = False
        self._wake = threading.Condition()
        self._seen: Stamp | None = None
        self._tidied = False

    def load(self) -> dict[Key, Record]:
        """What is kept. A file that cannot be read is set aside under a name that says so, and nothing is known."""
        seen = _stamp(self.path)  # before it is read: what is replaced meanwhile is read again
        try:
            records = read(self.path)
        except TrustFileProblem as problem:
            self._set_aside(str(problem))
            records, seen = {}, _stamp(self.path)
        if not self._tidied:  # once, as long as no draft can be our own
            self._tidied = True
            for left in self.path.parent.glob(f"{glob.escape(_draft(self.path))}*"):  # by a server that was killed
                with contextlib.suppress(OSError):
                    left.unlink()
        self._seen = seen
        return records

    def save(self, records: Mapping[Key, Record]) -> None:
        """Hands a state over; of several that wait only the last one is written. Neither blocks nor raises."""
        with self._wake:
            self._pending = dict(records)
            if self._writer is None:
                self._closing = False
                self._writer = threading.Thread(target=self._write, name="trust", daemon=True)
                self._writer.start()
            self._wake.notify_all()

    def changed_elsewhere(self) -> bool:
        """Whether somebody else has replaced the file; costs one `stat`, for which nobody else has to wait."""
        with self._wake:
            if self._pending is not None:
                return False
            seen = self._seen
        found = _stamp(self.path)
        with self._wake:
            return self._pending is None and found != seen == self._seen

    def flush(self) -> None:
        """Blocks until what was handed over is on disk, or has failed to get there."""
        with self._wake:
            self._wake.wait_for(lambda: self._pending is None)

    def close(self) -> None:
        """Flushes and ends the thread; idempotent, and the store may be used again."""
        with self._wake:
            writer, self._writer = self._writer, None
            self._closing = True
            self._wake.notify_all()
        if writer is not None:
            writer.join()

    def _write(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending is not None or self._closing)
                records = self._pending
            if records is None:
                return
            try:
                write(self.path, records)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                log.error("trust.not_saved", path=str(self.path), reason=reason)
            seen = _stamp(self.path)
            with self._wake:
                self._seen = seen
                if self._pending is records:
                    self._pending = None
                    self._wake.notify_all()

    def _set_aside(self, reason: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.unreadable-{time.time_ns() // 1_000_000}")
        try:
            os.replace(self.path, aside)
        except OSError as error:
            log.error("trust.unreadable", path=str(self.path), reason=reason, set_aside=f"no: {error.strerror}")
            return
        log.error(
            "trust.unreadable",
            path=str(self.path),
            reason=reason,
            set_aside=str(aside),
            consequence="all breakers are closed",
        )


def _draft(path: Path) -> str:
    """How the names of drafts begin."""
    return f".{path.name}."


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _sync_folder(folder: Path) -> None:
    """The new name outlives a power cut; where folders cannot be synced, a crash of the process is still survived."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _key(row: _RecordRow) -> Key:
    if row.bucket not in BUCKETS:
        raise ValueError(f"bucket: {row.bucket!r} is none of {', '.join(BUCKETS)}")
    return Key(row.fingerprint, row.mode, BUCKETS.index(row.bucket), row.tool_format)


def _record(row: _RecordRow) -> Record:
    trips = tuple(
        Trip(
            trip.incident,
            trip.time,
            trip.context,
            Accusation(trip.axis, CERTAIN if trip.weight == "certain" else float(trip.weight)),
        )
        for trip in row.trips
    )
    return Record(row.state, trips, row.until, row.changed, row.openings, row.confirmed)


def _row(key: Key, record: Record) -> _RecordRow:
    fields: dict[str, Any] = {
        "fingerprint": key.fingerprint,
        "mode": key.mode,
        "bucket": bucket_name(key.bucket),
        "tool_format": key.tool_format,
    }
    trips = [
        _TripRow(
            incident=trip.incident,
            time=trip.time,
            context=trip.context,
            axis=trip.accusation.axis,
            weight="certain" if trip.accusation.weight == CERTAIN else trip.accusation.weight,
        )
        for trip in record.trips
    ]
    return _RecordRow(
        **fields,
        state=record.state,
        until=record.until,
        changed=record.changed,
        openings=record.openings,
        confirmed=record.confirmed,
        trips=trips,
    )
