"""Reads incidents: which of them, in which order.

Must not: write, wait for a writer, or need one to run. Invariant: reads stores of version 1 as they are.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proxy.incidents.database import unpacked
from proxy.incidents.record import Record
from proxy.incidents.redaction import redact_text
from proxy.incidents.withheld import without_text

_JOINED = """SELECT o.incident, o.time, o.data, c.time, c.data, j.time, j.data,
    EXISTS (SELECT 1 FROM records d WHERE d.incident = o.incident AND d.kind = 'died')
    FROM records o
    LEFT JOIN records c ON c.incident = o.incident AND c.kind = 'closed'
    LEFT JOIN records j ON j.incident = o.incident AND j.kind = 'judged'
    WHERE o.kind = 'opened'"""
_CULPRIT = "coalesce(json_extract(j.data, '$.culprit'), json_extract(c.data, '$.culprit'))"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which incidents; "" = any. before: older than the incident of this id. since: opened at this time or later, as
    in the records. detector: a pattern with `*` and `?`. prefix: of the id."""

    before: str = ""
    since: str = ""
    detector: str = ""
    culprit: str = ""
    session: str = ""
    prefix: str = ""
    id: str = ""

    def where(self) -> tuple[str, list[str]]:
        conditions = {
            "o.incident < ?": self.before,
            "o.time >= ?": self.since,
            "json_extract(o.data, '$.detector') GLOB ?": self.detector,
            f"{_CULPRIT} = ?": self.culprit,
            "json_extract(o.data, '$.session') = ?": self.session,
            "substr(o.incident, 1, length(?)) = ?": self.prefix,
            "o.incident = ?": self.id,
        }
        used = {condition: value for condition, value in conditions.items() if value}
        values = [value for condition, value in used.items() for _ in range(condition.count("?"))]
        return "".join(f" AND {condition}" for condition in used), values


def select(connection: sqlite3.Connection, selection: Selection, limit: int, writers: bool) -> Iterator[Record]:
    """Newest first, without captures. writers: some process may still close what is open."""
    where, values = selection.where()
    rows = connection.execute(f"{_JOINED}{where} ORDER BY o.incident DESC LIMIT ?", (*values, limit))
    for row in rows:
        opened_at, closed_at, judged_at = row[1], row[3], row[5]
        opened: dict[str, Any] = json.loads(row[2])
        closed, judged = (json.loads(data) if data else None for data in (row[4], row[6]))
        died = closed is None and (bool(row[7]) or not writers)
        yield Record(row[0], opened_at, opened, closed_at, closed, judged_at, judged, died=died)


def capture_of(connection: sqlite3.Connection, incident: str, version: int) -> dict[str, Any] | None:
    """What was captured with an incident."""
    if version == 1:
        found = connection.execute("SELECT prompt FROM prompts WHERE incident = ?", (incident,)).fetchone()
        return {"prompt": redact_text(found[0])[0]} if found else None
    found = connection.execute("SELECT data FROM captures WHERE incident = ?", (incident,)).fetchone()
    return unpacked(found[0]) if found else None


def events(connection: sqlite3.Connection, after: int, since: str, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(sequence number, CloudEvent) of each record that was written after the one of number `after`, in order.

    An event's id is the incident and the kind of record, its `sequence` says where it stands among all; neither ever
    changes, so that a reader which sees one twice can tell. Prompts, texts and tokens stay here.
    """
    columns, condition = "seq, incident, kind, time, data", "seq > ? AND time >= ? ORDER BY seq"
    for seq, incident, kind, time, data in connection.execute(
        f"SELECT {columns} FROM records WHERE {condition}", (after, since)
    ):
        yield (
            seq,
            {
                "specversion": "1.0",
                "id": f"{incident}/{kind}",
                "source": source,
                "type": f"dev.specguard.incident.{kind}.v1",
                "time": time,
                "subject": incident,
                "sequence": f"{seq:012d}",
                "datacontenttype": "application/json",
                "data": without_text(kind, json.loads(data)),
            },
        )
