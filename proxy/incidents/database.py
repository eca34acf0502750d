"""The SQLite file: its tables, how it is opened, and how a file of an earlier version becomes one of this.

Must not: know what a record means. Invariant: a file is of version 2 or is left as it was; a change of version is one
transaction, so a process that dies in it changes nothing.

Version 1 had the tables records (incident, kind, time, data) and prompts (incident, prompt).
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

VERSION = 2
BUSY_S = 5
INCREMENTAL = 2
_CHUNK = 4096
TABLES = (
    """CREATE TABLE records (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, incident TEXT NOT NULL, kind TEXT NOT NULL, time TEXT NOT NULL,
        data TEXT NOT NULL, UNIQUE (incident, kind))""",
    "CREATE TABLE captures (incident TEXT PRIMARY KEY, time TEXT NOT NULL, data BLOB NOT NULL)",
    "CREATE TABLE losses (time TEXT NOT NULL, records INTEGER NOT NULL, reason TEXT NOT NULL)",
)


class StoreProblem(ValueError):
    """The file cannot be used; the message says why and what to do."""


def packed(data: Mapping[str, Any]) -> bytes:
    """A capture as it is kept: JSON, compressed, since a prompt's tokens are most of a file.

    Encoded piece by piece: in one piece a long prompt would keep all other threads waiting for tens of milliseconds.
    """
    compressor = zlib.compressobj(1)  # higher levels take 15 times as long for 10 %
    pieces = [compressor.compress(piece.encode("utf-8", "surrogatepass")) for piece in _pieces(data)]
    return b"".join(pieces) + compressor.flush()


def _pieces(value: Any) -> Iterator[str]:
    """JSON text of a value, at most a string or _CHUNK elements at once."""
    if isinstance(value, Mapping):
        for i, (name, inner) in enumerate(value.items()):
            yield f"{',' if i else '{'}{json.dumps(str(name), ensure_ascii=False)}:"
            yield from _pieces(inner)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple) and not any(isinstance(inner, int) for inner in value[:1]):
        for i, inner in enumerate(value):
            yield "," if i else "["
            yield from _pieces(inner)
        yield "]" if value else "[]"
    elif isinstance(value, list | tuple):
        for start in range(0, len(value), _CHUNK):
            text = json.dumps(value[start : start + _CHUNK], ensure_ascii=False, default=str)
            yield ("," if start else "[") + text[1:-1]
        yield "]"
    else:
        yield json.dumps(value, ensure_ascii=False, default=str)


def unpacked(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))
    return found


def open_to_write(path: Path, redact: Callable[[str], str]) -> sqlite3.Connection:
    """Makes the file, or brings it to this version. redact: what becomes of prompts that version 1 kept.

    Only its owner may read a file that is made here. Raises sqlite3.Error, OSError, StoreProblem.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        connection.create_function("packed_prompt", 1, lambda text: packed({"prompt": redact(text)}))
        if version_of(connection, path) < VERSION:
            _upgrade(connection, path)
        if connection.execute("PRAGMA auto_vacuum").fetchone()[0] != INCREMENTAL:
            connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
            connection.execute("VACUUM")  # only so it takes effect; also overwrites what dropped tables held
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA secure_delete = ON")  # what limits or people take out must not stay in free pages
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """Of any version up to this one. Raises sqlite3.Error, StoreProblem."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        version_of(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """0 = an empty file. Raises StoreProblem for one that a newer specguard wrote, or another program."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreProblem(f"{path}: was written by a newer specguard (version {version}); read it with that one")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreProblem(f"{path}: is the database of another program")
    return version


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")  # takes effect with the first table, or with VACUUM
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection, path)  # another process may have been faster
        if version < VERSION:
            if version == 1:
                connection.execute("ALTER TABLE records RENAME TO records_1")
            for table in TABLES:
                connection.execute(table)
            if version == 1:
                connection.execute(
                    "INSERT INTO records (incident, kind, time, data) "
                    "SELECT incident, kind, time, data FROM records_1 ORDER BY time, kind DESC"
                )
                connection.execute(
                    "INSERT INTO captures SELECT p.incident, r.time, packed_prompt(p.prompt) FROM prompts p "
                    "JOIN records_1 r ON r.incident = p.incident AND r.kind = 'opened'"
                )
                connection.execute("DROP TABLE records_1")
                connection.execute("DROP TABLE prompts")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
