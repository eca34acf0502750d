"""Legitimate text that lies on this machine: the interpreter's sources, those of the installed packages, their prose.

Must not: copy, keep or print any of it; only counts and the names of files leave this module's callers.
Invariant: the same machine gives the same documents in the same order, each once.

A document is a file of at least MIN_CHARS characters, cut after CHUNK_CHARS: shorter ones could not trip anything and
would flatter the rates. Text files are prose only where most of it is words: file lists, tables of numbers and the like
are counted apart, as data.
"""

from __future__ import annotations

import ast
import json
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIN_CHARS, CHUNK_CHARS = 2_000, 1 << 16
WORDS = 0.5
"""Of what stands between blanks, the share that has to be plain words in prose."""
_PROSE = {".md", ".rst", ".txt"}
_PROSE_NAMES = ("METADATA", "LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS", "CHANGES", "README")
_WORD = re.compile(r"[(\"'*`_]*[^\W\d_]+(?:['\u2019-][^\W\d_]+)*[.,;:!?)\"'*`_]*")

Kind = Literal["code", "text", "docstrings"]
Part = Literal["chosen on", "held out", "elsewhere"]
PARTS: tuple[Part, ...] = ("chosen on", "held out", "elsewhere")
"""Half of this machine's files by the hash of their names, on which numbers may be chosen; the other half; other
folders, which nobody has looked at."""


@dataclass(frozen=True, slots=True)
class File:
    """name: relative to where it was found; size: bytes."""

    path: Path
    name: str
    kind: Kind
    part: Part
    size: int

    def documents(self) -> Iterator[str]:
        if self.kind == "docstrings":
            return docstrings_of(self.path)
        return documents_of(self.path)


def find(also: Iterable[Path] = (), share: int = 1) -> list[File]:
    """Every file of the corpus: the standard library's sources, one of `share` of the installed packages', the text
    files and docstrings of all of them, and the sources and text files below `also`.

    In an order by hash: whoever stops in the middle has read some of everything.
    """
    found = [
        *_files(_source_files(share), "code"),
        *_files(_text_files(packages()), "text"),
        *_files((path for path in _source_files(1) if not _is_test(path)), "docstrings"),
    ]
    for root in also:
        found += _files(sorted(root.rglob("*.py")), "code", root)
        found += _files(_text_files(root), "text", root)
    seen: set[tuple[Kind, int, int]] = set()
    return sorted((file for file in found if _is_new(file, seen)), key=lambda file: (_hash(file.name), file.kind))


def sources(share: int = 1) -> Iterator[str]:
    """Python sources: the whole standard library and one of `share` files of the installed packages."""
    for path in _source_files(share):
        yield from documents_of(path)


def docstrings(share: int = 1 << 30) -> Iterator[str]:
    """Long docstrings, each a document; not of tests."""
    for path in _source_files(share):
        if not _is_test(path):
            yield from docstrings_of(path)


def is_prose(text: str) -> bool:
    """Whether most of it is words."""
    items = text.split()
    return sum(_WORD.fullmatch(item) is not None for item in items) >= WORDS * len(items)


def fenced(text: str) -> str:
    """As a model shows a file."""
    return f"Here is the file:\n\n```python\n{text}\n```\n"


def argument(text: str) -> str:
    """As a model writes a file: the body of a JSON string among the arguments of a call."""
    return f'{{"path": "src/file.py", "content": {json.dumps(text)}}}'


def packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def documents_of(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for start in range(0, len(text), CHUNK_CHARS):
        chunk = text[start : start + CHUNK_CHARS]
        if len(chunk) >= MIN_CHARS:
            yield chunk


def docstrings_of(path: Path) -> Iterator[str]:
    """The docstrings of a module that are long enough; equal ones, which copies of a class have, once."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError):
        return
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    for text in dict.fromkeys(ast.get_docstring(node) for node in nodes):
        if text is not None and len(text) >= MIN_CHARS:
            yield text[:CHUNK_CHARS]


def _source_files(share: int) -> Iterator[Path]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path
    for path in sorted(packages().rglob("*.py")):
        if _hash(str(path.relative_to(packages()))) % share == 0:
            yield path


def _text_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in _PROSE or (not path.suffix and path.name.upper().startswith(_PROSE_NAMES)):
            yield path


def _hash(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "replace"))


def _is_test(path: Path) -> bool:
    return bool({"test", "tests"} & set(path.parts))


def _files(paths: Iterable[Path], kind: Kind, root: Path | None = None) -> Iterator[File]:
    """root: of a folder elsewhere."""
    roots = [root] if root is not None else [packages(), Path(sysconfig.get_path("stdlib"))]
    for path in paths:
        name = next((str(path.relative_to(base)) for base in roots if path.is_relative_to(base)), path.name)
        part: Part = "elsewhere" if root is not None else PARTS[_hash(name) >> 8 & 1]
        try:
            size = path.stat().st_size
        except OSError:
            continue
        if size >= MIN_CHARS and path.is_file():
            yield File(path, name, kind, part, size)


def _is_new(file: File, seen: set[tuple[Kind, int, int]]) -> bool:
    """Licences and vendored modules come in copies."""
    try:
        key = file.kind, file.size, zlib.crc32(file.path.read_bytes())
    except OSError:
        return False
    new = key not in seen
    seen.add(key)
    return new
