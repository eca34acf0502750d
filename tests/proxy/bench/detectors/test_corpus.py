"""The machine's own files: enough of them, of a size, the same each time."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from proxy.bench.detectors import corpus


def test_sources_are_real_and_of_a_size() -> None:
    documents = list(islice(corpus.sources(1 << 30), 40))
    assert len(documents) == 40
    assert all(corpus.MIN_CHARS <= len(document) <= corpus.CHUNK_CHARS for document in documents)
    assert documents == list(islice(corpus.sources(1 << 30), 40))
    assert sum("import" in document for document in documents) > 20


@pytest.fixture
def no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The standard library alone: it is read in no time."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setattr(corpus, "packages", lambda: folder)
    return folder


def test_files_are_found_once_each_and_in_two_halves(no_packages: Path) -> None:
    for name in ("METADATA", "LICENSE", "copy.md", "short.txt", "module.py"):
        text = "" if name == "short.txt" else "Some words of a licence. " * 200
        (no_packages / name).write_text(name * (name == "METADATA") + text, encoding="utf-8")
    files = corpus.find()
    assert sorted(file.name for file in files if file.kind == "text") == ["LICENSE", "METADATA"]
    assert len({(file.kind, file.path) for file in files}) == len(files) > 1500
    assert files == corpus.find()
    assert sum(file.size for file in files if file.kind == "code") > 15e6
    assert {file.kind for file in files[: len(files) // 50]} == {"code", "docstrings"}  # of everything some
    for kind in ("code", "docstrings"):
        parts = [file.part for file in files if file.kind == kind]
        assert 0.3 < parts.count("held out") / len(parts) < 0.7, kind
        assert parts.count("elsewhere") == 0


def test_folders_elsewhere(tmp_path: Path, no_packages: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for name, text in {
        "a.py": "x = 1\n" * 400,
        "copy.py": "x = 1\n" * 400,
        "LICENSE": "words " * 400,
        "b.md": "x",
    }.items():
        (inner / name).write_text(text, encoding="utf-8")
    found = [file for file in corpus.find([inner]) if file.part == "elsewhere"]
    assert {(file.name, file.kind) for file in found} == {("a.py", "code"), ("LICENSE", "text")}
    assert [len(document) for file in found for document in file.documents()] == [2400, 2400]


def test_what_is_prose() -> None:
    assert corpus.is_prose("It is (mostly) words, isn't it? `Yes`: 12 of 15 *are*, in **every** well-made sentence.")
    assert not corpus.is_prose("django/forms/renderers.py\ndjango/forms/utils.py\nsrc/a_b.c")
    assert not corpus.is_prose("0 1 2.5 17 33\n1 2 3 4 5 NaN")


def test_docstrings_are_prose() -> None:
    documents = list(islice(corpus.docstrings(), 5))
    assert len(documents) == 5
    assert all("\n    def " not in document for document in documents[:1])


def test_the_ways_a_model_writes_a_file() -> None:
    text = 'x = "a\\n"\n'
    assert corpus.fenced(text).split("```python\n")[1].split("\n```")[0] == text
    assert json.loads(corpus.argument(text))["content"] == text
