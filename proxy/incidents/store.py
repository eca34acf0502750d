"""The incident store: a file that one thread of its own writes, and that anybody reads.

Must not: keep prompts unless asked to, block the event loop, or lose an opened incident when the process dies.
Invariant: an incident is at most one record of each kind, each written once and never changed.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from proxy.incidents.database import StoreProblem, open_to_read, version_of
from proxy.incidents.liveness import may_have_writers
from proxy.incidents.query import Selection, capture_of, events, select
from proxy.incidents.record import Closure, Incident, Judgement, Record
from proxy.incidents.retention import Limits
from proxy.incidents.writer import Writer
from proxy.replays.capture import Capture

log = structlog.get_logger()

_QUEUED = 4096
_QUEUED_CAPTURES = 64
"""Captures that may wait for the disk: each can be as large as a prompt."""
_CHECK_S = 3600.0
"""Time after which the age of what is kept is looked at again."""
_EVERYTHING = 1 << 62

Told = tuple[Incident | Closure | Judgement | None, Capture | None]
"""What the writer is told: a record, or None = look after the file."""
_LOOK: Told = (None, None)
Waiting = queue.Queue[Told | None]
"""What one thread writes; None ends it. Each has its own, so that none takes the end of another."""

__all__ = ["IncidentStore", "StoreProblem"]


class IncidentStore:
    """Writes in one thread of its own, started by the first write; reads with a connection per call.

    capture: keep what it takes to replay an incident, secrets apart, and what was said.
    dropped: records that could not be written; the log says why, and the store how many.
    """

    def __init__(self, path: Path | str, capture: bool = False, limits: Limits | None = None) -> None:
        self.path = Path(path)
        self.dropped = 0
        self._capture, self._limits = capture, limits or Limits()
        self._queue: Waiting = queue.Queue(_QUEUED)
        self._captures = threading.BoundedSemaphore(_QUEUED_CAPTURES)
        self._told_of = 0
        self._writer: threading.Thread | None = None
        self._before: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Looks after a file that is there: what a killed process left open, what is too old. It does not wait."""
        if self.path.is_file():
            self._enqueue(_LOOK)

    def opened(self, incident: Incident, capture: Capture | None = None) -> None:
        kept = capture if self._capture and capture and self._captures.acquire(blocking=False) else None
        if not self._enqueue((incident, kept)) and kept is not None:
            self._captures.release()

    def closed(self, closure: Closure) -> None:
        self._enqueue((closure, None))

    def judged(self, judgement: Judgement) -> None:
        self._enqueue((judgement, None))

    def flush(self) -> None:
        """Blocks until all that was handed over is on disk."""
        with self._lock:
            waiting = self._queue
        waiting.join()

    def close(self) -> None:
        """Flushes and ends the thread; idempotent, and the store may be used again."""
        with self._lock:
            writer, self._writer = self._writer, None
            waiting, self._queue = self._queue, queue.Queue(_QUEUED)
            self._before = writer or self._before
        if writer is not None:
            waiting.put(None)
            writer.join()

    def get(self, incident: str) -> Record | None:
        """With its capture. Raises StoreProblem, sqlite3.Error, as all that reads."""
        with self._reading() as (connection, version):
            if connection is None or not incident:
                return None
            found = next(select(connection, Selection(id=incident), 1, self._has_writers()), None)
            return found and replace(found, capture=capture_of(connection, incident, version))

    def find(self, prefix: str, limit: int = 50) -> Sequence[Record]:
        """The one of exactly this id, else those whose ids begin so, newest first; a single one with its capture."""
        if (exact := self.get(prefix)) is not None:
            return [exact]
        found = list(self.iterate(Selection(prefix=prefix), limit))
        only = self.get(found[0].id) if len(found) == 1 else None
        return found if only is None else [only]

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
        try:
            with self._lock:
                if self._writer is None:
                    given = self._queue, self._before
                    self._writer = threading.Thread(target=self._write, args=given, name="incidents", daemon=True)
                    self._writer.start()
                self._queue.put_nowait(told)
        except queue.Full:
            self._lose("the queue is full")
            return False
        return True

    def _write(self, waiting: Waiting, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # what it opens may be closed here
        writer = Writer(self.path, self._limits)
        self._do(writer, _LOOK)
        while True:
            try:
                told = waiting.get(timeout=_CHECK_S)
            except queue.Empty:
                self._do(writer, _LOOK)
                continue
            if told is not None:
                self._do(writer, told)
            else:
                writer.close()
            waiting.task_done()
            if told is None:
                return

    def _do(self, writer: Writer, told: Told) -> None:
        record, capture = told
        try:
            if record is None:
                writer.look_after()
            else:
                lost = self.dropped
                writer.write(record, capture, lost - self._told_of)
                self._told_of = lost
        except Exception as error:  # whatever it is, the next record may fare better, and no stream hears of it
            about_the_file = isinstance(error, sqlite3.Error | OSError | StoreProblem)
            reason = str(error) if about_the_file else type(error).__name__  # others may quote what was said
            if record is not None:
                self._lose(reason)
            else:
                log.error("incidents.neglected", error=reason)
        finally:
            if capture is not None:
                self._captures.release()

    def _lose(self, reason: str) -> None:
        self.dropped += 1
        log.error("incident.dropped", total=self.dropped, error=reason)
