"""Puts records into the file: what of them may be kept, what makes room for them, and what the dead have left open.

Must not: be used by two threads. Invariant: a record is in the file whole or not at all, and stays as it was written
until the limits take it out.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from proxy.incidents.database import open_to_write, packed
from proxy.incidents.liveness import Presence
from proxy.incidents.record import Closure, Incident, Judgement
from proxy.incidents.redaction import redact_capture, redact_text
from proxy.incidents.retention import Limits, is_over, make_room
from proxy.incidents.withheld import Kind, without_text
from proxy.replays.capture import Capture

log = structlog.get_logger()

_INSERT = (
    "INSERT OR IGNORE INTO records (incident, kind, time, data) SELECT ?1, ?2, ?3, ?4 "
    "WHERE ?2 = 'opened' OR EXISTS (SELECT 1 FROM records WHERE incident = ?1 AND kind = 'opened')"
)
"""What closes an incident that was lost or taken out has nothing to close."""


class Writer:
    """Of one file, which is opened with the first call. All methods raise sqlite3.Error, OSError and StoreProblem."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._connection: sqlite3.Connection | None = None
        self._presence: Presence | None = None
        self._file = (0, 0)

    def write(self, record: Incident | Closure | Judgement, capture: Capture | None, lost: int = 0) -> None:
        """lost: records that could not be written since the last that could."""
        kind, data, kept = _prepared(record, capture)
        text, now = json.dumps(data, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace"), _now()
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(_INSERT, (record.id, kind, now, text.decode()))
            if kept is not None:
                connection.execute("INSERT OR IGNORE INTO captures VALUES (?, ?, ?)", (record.id, now, kept))
            if lost:
                connection.execute("INSERT INTO losses VALUES (?, ?, ?)", (now, lost, "not written"))
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        if is_over(connection, self._limits):
            try:
                self.look_after()
            except (sqlite3.Error, OSError) as error:  # the record is in the file all the same
                log.error("incidents.neglected", error=str(error))

    def look_after(self) -> None:
        """Keeps the file within its limits; without effect where there is none."""
        if not self._path.is_file():
            return
        removed = make_room(self._opened(), self._limits, datetime.now(UTC))
        if removed.captures or removed.incidents:
            log.info("incidents.removed", captures=removed.captures, incidents=removed.incidents)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._presence is not None:
            self._presence.end()
            self._presence = None

    def _opened(self) -> sqlite3.Connection:
        """Opens the file, also anew where somebody has taken it away or put another in its place."""
        if self._connection is not None:
            if self._file == _identity(self._path):
                return self._connection
            self.close()
        connection = open_to_write(self._path, lambda text: redact_text(text)[0])
        try:
            self._presence = Presence(self._path)
            _bury_dead(connection, self._presence)
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, _identity(self._path)
        return connection


def _prepared(
    record: Incident | Closure | Judgement, capture: Capture | None
) -> tuple[Kind, dict[str, Any], bytes | None]:
    """(kind, what may be kept of the record, and of the capture)."""
    data = asdict(record)
    if not isinstance(record, Incident):  # what was decoded after the trip was not searched for secrets
        kind: Kind = "closed" if isinstance(record, Closure) else "judged"
        return kind, without_text(kind, data), None
    if capture is None:
        return "opened", without_text("opened", data), None
    clean = redact_capture(capture, [data["texts"], data["evidence"]])
    if clean.redacted:
        data = without_text("opened", data)
    return "opened", data, packed(clean.plain())


def _bury_dead(connection: sqlite3.Connection, presence: Presence) -> None:
    """Incidents that nobody is left to close get a record that says so, once."""
    if presence.is_alone():
        connection.execute(
            "INSERT OR IGNORE INTO records (incident, kind, time, data) "
            "SELECT o.incident, 'died', ?, '{}' FROM records o WHERE o.kind = 'opened' AND NOT EXISTS "
            "(SELECT 1 FROM records c WHERE c.incident = o.incident AND c.kind = 'closed')",
            (_now(),),
        )
    presence.settle()


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
