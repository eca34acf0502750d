"""The official JSON-Schema-Test-Suite as `make test` unpacks it from the source distribution of `jsonschema`.

Must not: skip: without the suite the tests fail and say how to get it.
Invariant: only mandatory tests; every instance comes in four serialisations of the same value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SUITE = Path(__file__).parents[3] / ".venv" / "json-schema-test-suite"
DRAFTS = {"draft7": "http://json-schema.org/draft-07/schema#", "draft2020-12": ""}


@dataclass(frozen=True, slots=True)
class Case:
    """One schema and its instances with the suite's own verdicts. name: file and description."""

    name: str
    schema: Any
    instances: tuple[tuple[Any, bool], ...]


@cache
def cases(draft: str) -> list[Case]:
    """Mandatory tests of a draft; draft-07 schemas are told so by `$schema`."""
    found = []
    for path in sorted((folder() / "tests" / draft).glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            schema = group["schema"]
            if DRAFTS[draft] and isinstance(schema, dict) and "$schema" not in schema:
                schema = {"$schema": DRAFTS[draft], **schema}
            instances = tuple((test["data"], test["valid"]) for test in group["tests"])
            found.append(Case(f"{path.stem}: {group['description']}", schema, instances))
    return found


@cache
def remotes(draft: str) -> tuple[tuple[str, Any], ...]:
    """(URI, schema) of the documents that the references of a draft's tests name."""
    root = folder() / "remotes"
    others = tuple(f"{path.name}/" for path in root.iterdir() if path.name.startswith(("draft", "v")))
    found = []
    for path in sorted(root.rglob("*.json")):
        name = path.relative_to(root).as_posix()
        if name.startswith(others) and not name.startswith(f"{draft}/"):
            continue
        if draft == "draft7" and name == "nested-absolute-ref-to-string.json":
            continue  # names a document of its own with `$defs`, which draft-07 does not know
        found.append((f"http://localhost:1234/{name}", json.loads(path.read_text(encoding="utf-8"))))
    return tuple(found)


def folder() -> Path:
    """The suite. Raises FileNotFoundError where `make test` has not unpacked it."""
    if not (SUITE / "tests").is_dir():
        raise FileNotFoundError(f"{SUITE} is missing; `make test` downloads and unpacks it")
    return SUITE


def serialisations(value: Any) -> Iterator[tuple[str, bytes]]:
    """The same value compact, indented, with its keys reversed, and with every character escaped."""
    yield "compact", json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    yield "indented", json.dumps(value, indent=2, ensure_ascii=False).encode()
    yield "reversed", json.dumps(reverse_keys(value), ensure_ascii=False).encode()
    yield "escaped", escaped(value).encode()


def reverse_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reverse_keys(member) for key, member in reversed(value.items())}
    return [reverse_keys(item) for item in value] if isinstance(value, list) else value


def escaped(value: Any) -> str:
    r"""JSON in which every character of every string is written as \uXXXX."""
    match value:
        case str():
            units = value.encode("utf-16-be", "surrogatepass")
            return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'
        case dict():
            return "{" + ",".join(f"{escaped(key)}:{escaped(member)}" for key, member in value.items()) + "}"
        case list():
            return "[" + ",".join(map(escaped, value)) + "]"
    return json.dumps(value)
