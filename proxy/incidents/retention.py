"""How large and how old a store may become: captures go first, then incidents, the oldest of each first.

Must not: be called by anybody but the writer. Invariant: afterwards the file itself is within its limit, not only what
is in use of it, and what was taken out cannot be read from it any more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

ROOM = 0.9
"""Share of the limit that is left in use, so that not every write has to make room."""


@dataclass(frozen=True, slots=True)
class Limits:
    """max_bytes: of the file, without the log beside it, which takes a few MiB; max_days: since an incident was opened.
    0 = no limit."""

    max_bytes: int = 256 << 20
    max_days: int = 30


@dataclass(frozen=True, slots=True)
class Removed:
    """How many."""

    captures: int
    incidents: int


def is_over(connection: sqlite3.Connection, limits: Limits) -> bool:
    """Is the file larger than it may be? A few microseconds."""
    return 0 < limits.max_bytes < _pragma(connection, "page_count") * _pragma(connection, "page_size")


def make_room(connection: sqlite3.Connection, limits: Limits, now: datetime) -> Removed:
    """Takes out what is too old or too much. Raises sqlite3.Error."""
    captures = incidents = 0
    if limits.max_days:
        oldest = (now.astimezone(UTC) - timedelta(days=limits.max_days)).isoformat(timespec="milliseconds")
        since = oldest.replace("+00:00", "Z")
        old = [row[0] for row in connection.execute("SELECT incident FROM records WHERE time < ?", (since,))]
        kept = "SELECT incident FROM records WHERE kind = 'opened' AND time >= ?"
        old = sorted({*old} - {row[0] for row in connection.execute(kept, (since,))})
        captures, incidents = captures + _forget(connection, "captures", old), incidents + len(old)
        _forget(connection, "records", old)
        connection.execute("DELETE FROM losses WHERE time < ?", (since,))
    if is_over(connection, limits):
        goal = int(limits.max_bytes * ROOM)
        for table in ("captures", "records"):
            while (excess := _in_use(connection) - goal) > 0 and (chosen := _oldest(connection, table, excess)):
                if table == "captures":
                    captures += _forget(connection, table, chosen)
                else:
                    incidents += len(chosen)
                    _forget(connection, table, chosen)
    if captures or incidents:
        connection.executescript("PRAGMA incremental_vacuum")  # `execute` takes one step of it, which frees one page
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return Removed(captures, incidents)


def _oldest(connection: sqlite3.Connection, table: str, excess: int) -> list[str]:
    """Incidents whose rows of a table are `excess` bytes together, or all there are."""
    chosen: list[str] = []
    order = "time" if table == "captures" else "seq"
    for incident, size in connection.execute(f"SELECT incident, length(data) FROM {table} ORDER BY {order}"):
        if excess <= 0:
            break
        chosen.append(incident)
        excess -= size
    return list(dict.fromkeys(chosen))


def _forget(connection: sqlite3.Connection, table: str, incidents: Iterable[str]) -> int:
    count = 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        for incident in incidents:
            count += connection.execute(f"DELETE FROM {table} WHERE incident = ?", (incident,)).rowcount
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return count


def _in_use(connection: sqlite3.Connection) -> int:
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
