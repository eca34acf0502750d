"""Incidents: what tripped, where, what was done, and how it ended; kept in SQLite, exported as CloudEvents.

Must not: store prompts unless asked to, block the event loop, or lose an opened incident when the process
dies. Invariant: an incident is two records, `opened` and `closed`, each written once and never changed.
"""

from __future__ import annotations

import json
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

log = structlog.get_logger()

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS records (
    incident TEXT NOT NULL, kind TEXT NOT NULL, time TEXT NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (incident, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prompts (incident TEXT PRIMARY KEY, prompt TEXT NOT NULL);
PRAGMA user_version = 1;
"""
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_QUEUED = 4096

Row = tuple[str, tuple[str, ...]]
"""A statement and its values."""

Action = Literal["start", "rewind", "repair", "end", "none"]
Outcome = Literal["recovered", "ended", "abandoned", "observed"]


@dataclass(frozen=True, slots=True)
class Incident:
    """Opened when something trips. Positions are indices into the response's tokens; context in tokens.

    texts: what the model and the guard wrote; kept only where prompts are.
    rule, override: of the policy, by name, "" = none; situation: `policies.policy.Situation` that was decided in, empty
    before the first token.
    """

    id: str
    request_id: str
    session: str
    api: str
    model: str
    fingerprint: str
    detector: str
    grade: str
    reason: str
    channel: str
    position: int
    began: int
    action: Action
    mode_before: str
    mode_after: str
    rewound_to: int | None
    tokens_rewound: int
    context: int
    prompt_tokens: int
    cached_tokens: int
    seed: int
    temperature: float
    prompt_sha256: str
    rebuild: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    audits: Mapping[str, Any] = field(default_factory=dict)
    drafts: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    rule: str = ""
    override: str = ""
    situation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Closure:
    """How it ended. milliseconds: cost of the rewind; rebuilt: tokens computed again; proof: BlameVerdict.

    level: how far the rewind went to get a sound cache, L0 (nothing) to L3 (prefill again); "" = there was none.
    """

    id: str
    outcome: Outcome
    culprit: str
    certainty: str
    finish_reason: str
    milliseconds: float
    rebuilt: int
    completion_tokens: int
    discarded_tokens: int
    proof: Mapping[str, Any] = field(default_factory=dict)
    level: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """An incident as read back; closed is None while the response runs, or for ever if the process died."""

    id: str
    opened_at: str
    opened: dict[str, Any]
    closed_at: str | None = None
    closed: dict[str, Any] | None = None
    prompt: str | None = None

    def cloud_event(self, source: str = "/specguard") -> dict[str, Any]:
        """CloudEvents 1.0, structured mode. Prompts and texts stay here."""
        opened = {name: value for name, value in self.opened.items() if name != "texts"}
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": "dev.specguard.incident.v1",
            "time": self.opened_at,
            "subject": self.opened.get("request_id") or self.id,
            "datacontenttype": "application/json",
            "data": {"opened": opened, "closed": self.closed, "closed_at": self.closed_at},
        }


class IncidentSink(Protocol):
    """What a session needs of a store. Neither call blocks or raises."""

    def opened(self, incident: Incident, prompt: str = "") -> None: ...

    def closed(self, closure: Closure) -> None: ...


def new_incident_id() -> str:
    """`inc_` and 26 characters that sort by time, like a ULID."""
    number = (time.time_ns() // 1_000 << 72) | secrets.randbits(72)
    return "inc_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


class IncidentStore:
    """Writes in one thread of its own, started by the first write; reads with a connection per call."""

    def __init__(self, path: Path | str, keep_prompts: bool = False) -> None:
        self.path = Path(path)
        self.dropped = 0
        self._keep_prompts = keep_prompts
        self._queue: queue.Queue[Sequence[Row] | None] = queue.Queue(_QUEUED)
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()

    def opened(self, incident: Incident, prompt: str = "") -> None:
        data = asdict(incident)
        if not self._keep_prompts:
            del data["texts"]
        rows = [_insert(incident.id, "opened", data)]
        if prompt and self._keep_prompts:
            rows.append(("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (incident.id, prompt)))
        self._enqueue(rows)

    def closed(self, closure: Closure) -> None:
        self._enqueue([_insert(closure.id, "closed", asdict(closure))])

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
        found = self._read("WHERE o.incident = ?", (incident,), 1)
        return found[0] if found else None

    def list(self, limit: int = 50, before: str = "", detector: str = "") -> Sequence[Record]:
        """Newest first; `before` an id, only those of one detector."""
        where = "WHERE (? = '' OR o.incident < ?) AND (? = '' OR json_extract(o.data, '$.detector') = ?)"
        return self._read(where, (before, before, detector, detector), limit)

    def export(self, limit: int = 1_000_000, source: str = "/specguard") -> Iterator[dict[str, Any]]:
        """CloudEvents, oldest first."""
        for record in reversed(self.list(limit)):
            yield record.cloud_event(source)

    def _read(self, where: str, values: tuple[str, ...], limit: int) -> Sequence[Record]:
        if not self.path.exists():
            return []
        query = f"""SELECT o.incident, o.time, o.data, c.time, c.data, p.prompt FROM records o
            LEFT JOIN records c ON c.incident = o.incident AND c.kind = 'closed'
            LEFT JOIN prompts p ON p.incident = o.incident
            {where} AND o.kind = 'opened' ORDER BY o.incident DESC LIMIT ?"""
        with closing(sqlite3.connect(self.path, timeout=5)) as connection:
            try:
                rows = connection.execute(query, (*values, limit)).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise
        return [Record(r[0], r[1], json.loads(r[2]), r[3], json.loads(r[4]) if r[4] else None, r[5]) for r in rows]

    def _enqueue(self, rows: Sequence[Row]) -> None:
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="incidents", daemon=True)
                self._writer.start()
        try:
            self._queue.put_nowait(rows)
        except queue.Full:
            self.dropped += 1
            log.error("incident.dropped", total=self.dropped)

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        while (rows := self._queue.get()) is not None:
            try:
                if connection is None:
                    connection = _open(self.path)
                with connection:
                    for statement, values in rows:
                        connection.execute(statement, values)
            except (sqlite3.Error, OSError) as error:
                self.dropped += 1
                log.error("incident.dropped", total=self.dropped, error=str(error))
            finally:
                self._queue.task_done()
        if connection is not None:
            connection.close()
        self._queue.task_done()


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=5)
    connection.executescript(SCHEMA)
    return connection


def _insert(incident: str, kind: str, data: Mapping[str, Any]) -> Row:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = json.dumps(data, ensure_ascii=False, default=str)
    return "INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?)", (incident, kind, now, text)
