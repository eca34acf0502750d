"""The machine's own files: enough of them, of a size, the same each time."""

from __future__ import annotations

import json
from itertools import islice

from proxy.bench_detectors import corpus


def test_sources_are_real_and_of_a_size() -> None:
    documents = list(islice(corpus.sources(1 << 30), 40))
    assert len(documents) == 40
    assert all(corpus.MIN_CHARS <= len(document) <= corpus.CHUNK_CHARS for document in documents)
    assert documents == list(islice(corpus.sources(1 << 30), 40))
    assert sum("import" in document for document in documents) > 20


def test_prose_is_of_a_size_and_told_once() -> None:
    documents = list(islice(corpus.prose(), 60))
    assert len(documents) == len(set(documents)) > 20
    assert all(corpus.MIN_CHARS <= len(document) <= corpus.CHUNK_CHARS for document in documents)


def test_docstrings_are_prose() -> None:
    documents = list(islice(corpus.docstrings(), 5))
    assert len(documents) == 5
    assert all("\n    def " not in document for document in documents[:1])


def test_the_ways_a_model_writes_a_file() -> None:
    text = 'x = "a\\n"\n'
    assert corpus.fenced(text).split("```python\n")[1].split("\n```")[0] == text
    assert json.loads(corpus.argument(text))["content"] == text
