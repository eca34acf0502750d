"""Legitimate text that lies on this machine: the interpreter's sources, those of the installed packages, their prose.

Must not: copy, keep or print any of it; only counts leave this module's callers.
Invariant: the same machine gives the same documents in the same order.

A document is a file of at least MIN_CHARS characters, cut after CHUNK_CHARS: shorter ones could not trip anything and
would flatter the rates.
"""

from __future__ import annotations

import ast
import json
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

MIN_CHARS, CHUNK_CHARS = 2_000, 1 << 16
_PROSE = {".md", ".rst", ".txt"}
_PROSE_NAMES = ("METADATA", "LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS", "CHANGES", "README")


def sources(share: int = 1) -> Iterator[str]:
    """Python sources: the whole standard library and one of `share` files of the installed packages."""
    for path in _source_files(share):
        yield from _documents(path)


def prose(share: int = 1) -> Iterator[str]:
    """Readmes, licences, notes of the installed packages; the docstrings of the modules that `sources` gives."""
    seen = set()
    for path in sorted(_packages().rglob("*")):
        if path.suffix.lower() in _PROSE or (not path.suffix and path.name.upper().startswith(_PROSE_NAMES)):
            for document in _documents(path):
                if (key := zlib.crc32(document.encode("utf-8", "replace"))) not in seen:  # licences come in copies
                    seen.add(key)
                    yield document
    yield from docstrings(share)


def docstrings(share: int = 1 << 30) -> Iterator[str]:
    """A module's docstrings at a time; not of tests, whose one-line docstrings in a row are nobody's text."""
    for path in _source_files(share):
        if {"test", "tests"} & set(path.parts):
            continue
        text = "\n\n".join(_docstrings(path))
        if len(text) >= MIN_CHARS:
            yield text[:CHUNK_CHARS]


def fenced(text: str) -> str:
    """As a model shows a file."""
    return f"Here is the file:\n\n```python\n{text}\n```\n"


def argument(text: str) -> str:
    """As a model writes a file: the body of a JSON string among the arguments of a call."""
    return f'{{"path": "src/file.py", "content": {json.dumps(text)}}}'


def _source_files(share: int) -> Iterator[Path]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path
    for path in sorted(_packages().rglob("*.py")):
        if zlib.crc32(str(path.relative_to(_packages())).encode()) % share == 0:
            yield path


def _packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _documents(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for start in range(0, len(text), CHUNK_CHARS):
        chunk = text[start : start + CHUNK_CHARS]
        if len(chunk) >= MIN_CHARS:
            yield chunk


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield text
