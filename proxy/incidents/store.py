"""The incident store: a file that one thread of its own writes, and that anybody reads.

Must not: keep prompts unless asked to, block the event loop, or lose an opened incident when the process dies.
Invariant: an incident is at most one record of each kind, each written once and never changed.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from proxy.capture import Capture
from proxy.incidents.database import StoreProblem, open_to_read, open_to_write, packed, version_of
from proxy.incidents.liveness import Presence, may_have_writers
from proxy.incidents.query import Selection, capture_of, events, select
from proxy.incidents.record import Closure, Incident, Judgement, Record
from proxy.incidents.redaction import Redactor, redact_capture, redact_text
from proxy.incidents.withheld import Kind, without_text

log = structlog.get_logger()

_QUEUED = 4096
_QUEUED_CAPTURES = 64
"""Captures that may wait for the disk: each can be as large as a prompt."""
_EVERYTHING = 1 << 62

Told = tuple[Incident | Closure | Judgement, Capture | None]
__all__ = ["IncidentStore", "StoreProblem"]


class IncidentStore:
    """Writes in one thread of its own, started by the first write; reads with a connection per call.

    capture: keep what it takes to replay an incident, secrets apart, and what was said.
    dropped: records that could not be written; what they were is in the log, and how many in the store.
    """

    def __init__(self, path: Path | str, capture: bool = False) -> None:
        self.path = Path(path)
        self.dropped = 0
        self._capture = capture
        self._queue: queue.Queue[Told | None] = queue.Queue(_QUEUED)
        self._captures = threading.BoundedSemaphore(_QUEUED_CAPTURES)
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        kept = capture if self._capture and self._captures.acquire(blocking=False) else None
        if not self._enqueue((incident, kept)) and kept is not None:
            self._captures.release()

    def closed(self, closure: Closure) -> None:
        self._enqueue((closure, None))

    def judged(self, judgement: Judgement) -> None:
        self._enqueue((judgement, None))

    def flush(self) -> None:
        """Blocks until all that was handed over is on disk."""
        self._queue.join()

    def close(self) -> None:
        """Flushes and ends the thread; idempotent, and the store may be used again."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            self._queue.put(None)
            writer.join()

    def get(self, incident: str) -> Record | None:
        """With its capture. Raises StoreProblem, sqlite3.Error, as all that reads."""
        with self._reading() as (connection, version):
            if connection is None:
                return None
            found = next(select(connection, Selection(id=incident), 1, self._has_writers()), None)
            return found and replace(found, capture=capture_of(connection, incident, version))

    def find(self, prefix: str, limit: int = 50) -> Sequence[Record]:
        """The one of exactly this id, else those whose ids begin so, newest first, without captures."""
        exact = self.get(prefix)
        return [exact] if exact else list(self.iterate(Selection(prefix=prefix), limit))

    def list(
        self,
        limit: int = 50,
        before: str = "",
        detector: str = "",
        *,
        since: str = "",
        culprit: str = "",
        session: str = "",
    ) -> Sequence[Record]:
        """Newest first, without captures; what the words mean stands at `Selection`."""
        return list(self.iterate(Selection(before, since, detector, culprit, session), limit))

    def iterate(self, selection: Selection | None = None, limit: int = _EVERYTHING) -> Iterator[Record]:
        """Like `list`, one by one."""
        with self._reading() as (connection, _):
            if connection is not None:
                yield from select(connection, selection or Selection(), limit, self._has_writers())

    def events(
        self, after: int = 0, since: str = "", source: str = "/specguard"
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(sequence number, CloudEvent) of each record in the order of writing; see `proxy.incidents.query.events`.

        Raises StoreProblem for a store of version 1, which has no such order.
        """
        with self._reading() as (connection, version):
            if connection is None:
                return
            if version < 2:
                raise StoreProblem(f"{self.path}: is of version 1; start the server on it once, which brings it up")
            yield from events(connection, after, since, source)

    def losses(self) -> tuple[int, str]:
        """(records that could not be written, time of the last such); (0, "") if there were none."""
        with self._reading() as (connection, version):
            if connection is None or version < 2:
                return 0, ""
            count, last = connection.execute("SELECT coalesce(sum(records), 0), max(time) FROM losses").fetchone()
            return count, last or ""

    @contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection | None, int]]:
        """(None, 0) where nothing was ever written."""
        if not self.path.exists():
            yield None, 0
            return
        with closing(open_to_read(self.path)) as connection:
            version = version_of(connection, self.path)
            yield (connection if version else None), version

    def _has_writers(self) -> bool:
        with self._lock:
            if self._writer is not None:
                return True
        return may_have_writers(self.path)

    def _enqueue(self, told: Told) -> bool:
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="incidents", daemon=True)
                self._writer.start()
        try:
            self._queue.put_nowait(told)
        except queue.Full:
            self._lose("the queue is full")
            return False
        return True

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        presence: Presence | None = None
        told_losses = self.dropped
        while (told := self._queue.get()) is not None:
            record, capture = told
            try:
                if connection is None:
                    connection = open_to_write(self.path, lambda text: redact_text(text)[0])
                    presence = presence or Presence(self.path)
                    _bury_dead(connection, presence)
                connection.execute("BEGIN IMMEDIATE")
                self._insert(connection, record, capture)
                if self.dropped > told_losses:
                    lost, told_losses = self.dropped - told_losses, self.dropped
                    connection.execute("INSERT INTO losses VALUES (?, ?, ?)", (_now(), lost, "not written"))
                connection.execute("COMMIT")
            except (sqlite3.Error, OSError, StoreProblem) as error:
                self._lose(str(error))
                if connection is not None and connection.in_transaction:
                    connection.execute("ROLLBACK")
            finally:
                if capture is not None:
                    self._captures.release()
                self._queue.task_done()
        if connection is not None:
            connection.close()
        if presence is not None:
            presence.end()
        self._queue.task_done()

    def _insert(
        self, connection: sqlite3.Connection, record: Incident | Closure | Judgement, capture: Capture | None
    ) -> None:
        data = asdict(record)
        kind: Kind = "judged"
        if isinstance(record, Incident):
            kind = "opened"
            clean = None if capture is None else redact_capture(capture)
            if clean is not None:
                row = (record.id, _now(), packed(clean.plain()))
                connection.execute("INSERT OR IGNORE INTO captures VALUES (?, ?, ?)", row)
            redactor = Redactor()
            redactor.tree([data["texts"], data["evidence"]])
            if clean is None or clean.redacted or redactor.kinds:
                data = without_text(kind, data)
        else:  # what was decoded after the trip was not searched for secrets, and a replay says it again
            kind = "closed" if isinstance(record, Closure) else kind
            data = without_text(kind, data)
        text = json.dumps(data, ensure_ascii=False, default=str)
        values = (record.id, kind, _now(), text)
        connection.execute(
            "INSERT OR IGNORE INTO records (incident, kind, time, data) SELECT ?1, ?2, ?3, ?4 "
            "WHERE ?2 = 'opened' OR EXISTS (SELECT 1 FROM records WHERE incident = ?1 AND kind = 'opened')",
            values,
        )

    def _lose(self, reason: str) -> None:
        self.dropped += 1
        log.error("incident.dropped", total=self.dropped, error=reason)


def _bury_dead(connection: sqlite3.Connection, presence: Presence) -> None:
    """Records of incidents that nobody is left to close say so, once."""
    if presence.is_alone():
        connection.execute(
            "INSERT OR IGNORE INTO records (incident, kind, time, data) "
            "SELECT o.incident, 'died', ?, '{}' FROM records o WHERE o.kind = 'opened' AND NOT EXISTS "
            "(SELECT 1 FROM records c WHERE c.incident = o.incident AND c.kind = 'closed')",
            (_now(),),
        )
    presence.settle()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
