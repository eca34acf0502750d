"""Feeds the corpus to the detectors, in several processes.

Must not: hold more than a file at a time in a process, or lose what was counted when it is stopped.
Invariant: the counts are a function of the files that were read, whatever the number of processes.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from proxy.bench.detectors import corpus
from proxy.bench.detectors.corpus import File, Part
from proxy.bench.detectors.false_alarms import Alarm, Count
from proxy.bench.detectors.tokens import Cut, embedded, pieces

BATCH_BYTES = 1 << 20
EMBEDDED_EVERY = 8
"""One of so many sources is cut by the embedded model's tokenizer too."""
TOLD_EVERY_S = 10.0
CATEGORIES = ("prose", "code, fenced", "code, bare", "arguments", "arguments, embedded tokenizer", "data")

Progress = Callable[[str], None]
"""Told a line now and then."""


@dataclass(slots=True)
class Survey:
    """counts: category -> part -> count; alarms: what was flagged; read, of: bytes."""

    counts: dict[str, dict[Part, Count]] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    read: int = 0
    of: int = 0

    @property
    def complete(self) -> bool:
        return self.read >= self.of

    def count(self, category: str, *parts: Part) -> Count:
        """Of these parts together; of all of them if none is named."""
        total = Count()
        for part, count in self.counts.get(category, {}).items():
            if not parts or part in parts:
                total.merge(count)
        return total

    def add(self, file: File, category: str, tokens: list[tuple[int, str]], channel: str) -> None:
        """Feeds one document."""
        count = self.counts.setdefault(category, {}).setdefault(file.part, Count())
        alarm = count.add(tokens, channel)
        if alarm is not None:
            self.alarms.append(Alarm(category, file.name, file.part, *alarm))

    def merge(self, other: Survey) -> None:
        self.alarms += other.alarms
        self.read += other.read
        for category, parts in other.counts.items():
            for part, count in parts.items():
                self.counts.setdefault(category, {}).setdefault(part, Count()).merge(count)


def survey(files: Sequence[File], jobs: int, tell: Progress) -> Survey:
    """Reads all files; Ctrl-C ends it with what was read until then."""
    total = Survey(of=sum(file.size for file in files))
    began = told = time.monotonic()
    try:
        with _each(list(_batches(files)), jobs) as results:
            for part in results:
                total.merge(part)
                if time.monotonic() - told >= TOLD_EVERY_S:
                    told = time.monotonic()
                    tell(_progress(total, told - began))
    except KeyboardInterrupt:
        tell(f"corpus: stopped at {_share(total):.0%}; what was read is reported")
    total.alarms.sort()
    return total


def read_files(files: Sequence[File]) -> Survey:
    """Counts one batch.

    Sources come fenced, bare, and as arguments; a part of them once more with the embedded model's tokenizer.
    """
    found = Survey(read=sum(file.size for file in files))
    for file in files:
        for document in file.documents():
            if file.kind == "code":
                _add_source(found, file, document)
            else:
                prose = file.kind == "docstrings" or corpus.is_prose(document)
                found.add(file, "prose" if prose else "data", pieces(document), "text")
    return found


def _add_source(found: Survey, file: File, source: str) -> None:
    argument = corpus.argument(source)
    found.add(file, "code, fenced", pieces(corpus.fenced(source)), "text")
    found.add(file, "code, bare", pieces(source), "text")
    found.add(file, "arguments", pieces(argument), "tool:0")
    cut = _embedded()
    if cut is not None and zlib.crc32(source.encode("utf-8", "replace")) % EMBEDDED_EVERY == 0:
        found.add(file, "arguments, embedded tokenizer", cut(argument), "tool:0")


@cache
def _embedded() -> Cut | None:
    try:
        return embedded()
    except ImportError:
        return None


def _batches(files: Sequence[File]) -> Iterator[list[File]]:
    """About BATCH_BYTES each."""
    batch: list[File] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.size
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _each(batches: list[list[File]], jobs: int) -> Iterator[Iterator[Survey]]:
    """Processes of their own are stopped with us, not by the terminal: then nothing of theirs is printed."""
    if jobs == 1:
        yield map(read_files, batches)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield pool.imap_unordered(read_files, batches)


def _share(survey: Survey) -> float:
    return survey.read / survey.of if survey.of else 1.0


def _progress(survey: Survey, seconds: float) -> str:
    share = _share(survey)
    left = seconds / share - seconds if share else 0.0
    return (
        f"corpus: {share:.0%} of {survey.of / 1e6:.0f} MB after {seconds:.0f} s, about {left:.0f} s left, "
        f"{len(survey.alarms)} flagged"
    )
