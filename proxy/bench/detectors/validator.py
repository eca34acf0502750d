"""What checking a streamed tool call costs.

Must not: compare with anything but the bars below, or leave a bar out of the answer.
Invariant: every bar is an upper limit.

A bar is an upper limit. Times are processor time of this thread, the best of several rounds: other work on the
machine only adds to them.
"""

from __future__ import annotations

import json as codec
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectors.json_stream.automaton import JsonStream
from detectors.json_stream.compiled import CompiledSchema
from detectors.json_stream.trip import Rules

FRAGMENT = 4
"""Bytes per piece: about a token's."""
ROUNDS = 7
_UNLIMITED = Rules(size=None)


@dataclass(frozen=True, slots=True)
class Limit:
    """A bar that is still to be measured. most: the limit, in `unit`."""

    name: str
    unit: str
    most: float
    measure: Callable[[], float]


def _closed(required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_STATUS = {"type": "string", "enum": ["pending", "in_progress", "completed"]}
_FILTER = {
    "$defs": {
        "f": {
            "anyOf": [
                _closed(
                    "op items", op={"enum": ["and", "or"]}, items={"type": "array", "items": {"$ref": "#/$defs/f"}}
                ),
                _closed("field value", field=_TEXT, value={"type": ["string", "number", "null"]}),
            ]
        }
    },
    **_closed("where", where={"$ref": "#/$defs/f"}),
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "edit": _closed("path old new", path=_TEXT, old=_TEXT, new=_TEXT, all={"type": "boolean"}),
    "todo": _closed("todos", todos={"type": "array", "items": _closed("text status", text=_TEXT, status=_STATUS)}),
    "filter": _FILTER,
}
CALLS: dict[str, Any] = {
    "edit": {
        "path": "src/app.py",
        "old": "value = compute(x)\n" * 200,
        "new": "if x:\n    return y\n" * 200,
        "all": True,
    },
    "todo": {"todos": [{"text": f"repair the failing test {i}", "status": "in_progress"} for i in range(40)]},
    "filter": {"where": {"op": "and", "items": [{"field": f"name{i}", "value": i} for i in range(40)]}},
}


def limits() -> list[Limit]:
    """What is measured."""
    return [
        *(Limit(f"{name}, bytes in fragments of {FRAGMENT}", "ns/byte", 1000, _per_byte(name)) for name in CALLS),
        Limit("1 MB string against 100 kB, per byte", "ratio", 1.5, _linearity),
        *(Limit(f"{name}, clone", "us", 20, _clone(name)) for name in CALLS),
        Limit("compile, median", "ms", 0.5, _compile),
        Limit("memory beside the raw bytes", "kB", 64, _memory),
    ]


def _document(name: str) -> bytes:
    return codec.dumps(CALLS[name]).encode()


def _feed(compiled: CompiledSchema, data: bytes, size: int) -> JsonStream:
    stream = JsonStream(compiled, _UNLIMITED)
    for i in range(0, len(data), size):
        stream.feed(data[i : i + size])
    assert stream.complete
    return stream


def _per_byte(name: str) -> Callable[[], float]:
    def measure() -> float:
        compiled, data = _compiled(SCHEMAS[name]), _document(name)
        return _best(lambda: _feed(compiled, data, FRAGMENT)) / len(data) * 1e9

    return measure


def _linearity() -> float:
    compiled, times = _compiled(SCHEMAS["edit"]), []
    for size in (100_000, 1_000_000):
        data = codec.dumps({"path": "", "old": "", "new": "word " * (size // 5)}).encode()
        times.append(_best(lambda data=data: _feed(compiled, data, 20), 3) / len(data))  # type: ignore[misc]
    return times[1] / times[0]


def _clone(name: str) -> Callable[[], float]:
    """In the middle of a call, fed with a candidate afterwards, as filtered decoding does."""

    def measure() -> float:
        data = _document(name)
        stream = JsonStream(_compiled(SCHEMAS[name]), _UNLIMITED)
        stream.feed(data[: len(data) // 2])

        def clone() -> None:
            for _ in range(200):
                stream.clone()

        return _best(clone) / 200 * 1e6

    return measure


def _compile() -> float:
    times = []
    for _ in range(40):
        for schema in SCHEMAS.values():
            start = time.thread_time()
            _compiled(schema)
            times.append(time.thread_time() - start)
    return statistics.median(times) * 1e3


def _memory() -> float:
    compiled, data = _compiled(SCHEMAS["edit"]), _document("edit")
    _feed(compiled, data, FRAGMENT)
    tracemalloc.start()
    stream = _feed(compiled, data, FRAGMENT)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (held - len(stream.raw())) / 1024


def _compiled(schema: dict[str, Any]) -> CompiledSchema:
    """Anew: nothing comes from the cache."""
    return CompiledSchema(schema, codec.dumps(schema))


def _best(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        action()
        times.append(time.thread_time() - start)
    return min(times)
