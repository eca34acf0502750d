"""What the loop detectors cost per token, and what other thresholds would find and flag.

Must not: measure on text made for it: the standard library's sources and docstrings are the clean text.
Invariant: each row of the sweep is one detector alone at one setting, over the same documents and the same made loops.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

from detectors.byte_loops import ByteLoops
from detectors.channel_loops import ChannelLoops
from detectors.counter_loop import CounterLoop
from detectors.finding import Grade
from detectors.loop_settings import LoopSettings
from detectors.near_repeat import NearRepeat
from detectors.period import PeriodDetector, Periods, Threshold, Thresholds
from detectors.regions import Regions
from detectors.token_text import read
from proxy.bench.detectors import corpus, traps
from proxy.bench.detectors.synthetic import KINDS, LEAD, LOOP_TOKENS, stream
from proxy.bench.detectors.tokens import Token, pieces
from proxy.bench.report import Bar, Cell, Table

ROUNDS = 7
DOCUMENTS, DOCUMENT_TOKENS = 60, 6000
TRAP_TOKENS = 2500
SWEEP_PERIODS, LONG_PERIODS = (3, 21, 55, 144), (280, 340)
MOST_US, MOST_KIB = 3.0, 1024.0
_NEVER = Threshold(1 << 30, 1 << 30)


def clean_text() -> list[list[Token]]:
    """The same number of sources and of docstrings, cut to DOCUMENT_TOKENS."""
    half = DOCUMENTS // 2
    documents = [*islice(corpus.sources(1 << 30), half), *islice(corpus.docstrings(), half)]
    return [pieces(document)[:DOCUMENT_TOKENS] for document in documents]


def cost(documents: list[list[Token]]) -> tuple[Table, list[Bar]]:
    """Time per token and memory per stream, of the whole set and of each part alone."""
    tokens = [token for document in documents for token in document]
    loop = stream("exact", 55, 1) * max(1, len(tokens) // 8 // LOOP_TOKENS)
    facts = [(token, text, read(text)) for token, text in tokens]

    def channel(name: str, fed: list[Token]) -> Callable[[], object]:
        def run() -> object:
            loops = ChannelLoops(channel=name)
            feed = loops.feed
            for position, (token, text) in enumerate(fed):
                feed(position, token, text)
            return loops

        return run

    def each(make: Callable[[], tuple[object, Callable[[int], object]]]) -> Callable[[], object]:
        def run() -> object:
            kept, push = make()
            for position in range(len(facts)):
                push(position)
            return kept

        return run

    def period() -> tuple[object, Callable[[int], object]]:
        periods = Periods()
        return periods, lambda i: periods.push(facts[i][0])

    def near() -> tuple[object, Callable[[int], object]]:
        repeat = NearRepeat()
        return repeat, lambda i: repeat.push(i, facts[i][0], facts[i][2].symbol)

    def counter() -> tuple[object, Callable[[int], object]]:
        counting = CounterLoop(LoopSettings().counter)
        return counting, lambda i: counting.push(i, facts[i][2], facts[i][1])

    def region() -> tuple[object, Callable[[int], object]]:
        regions = Regions()
        return regions, lambda i: regions.feed(facts[i][1], read(facts[i][1]))

    def by_bytes() -> object:
        loops = ByteLoops()
        for position, (_, text) in enumerate(tokens):
            loops.feed(position, text.encode("utf-8", "replace"))
        return loops

    whole = _us(channel("text", tokens), len(tokens))
    parts: list[tuple[str, Callable[[], object], int]] = [
        ("text: all, inside of a loop", channel("text", loop), len(loop)),
        ("tool arguments: all", channel("tool:0", tokens), len(tokens)),
        ("  exact period", each(period), len(tokens)),
        ("  near-repeat", each(near), len(tokens)),
        ("  counter", each(counter), len(tokens)),
        ("  region and text facts", each(region), len(tokens)),
        ("bytes, for upstreams without token ids", by_bytes, len(tokens)),
    ]
    memory = _kib(channel("text", tokens))
    rows: list[tuple[Cell, ...]] = [("text: all", whole, memory)]
    rows += [(name, _us(run, count), _kib(run)) for name, run, count in parts]
    columns = ("detectors", "us per token", "KiB per stream")
    note = "Parts alone include the loop that feeds them. Clean text: sources and docstrings of the standard library."
    bars = [
        Bar.at_most("all loop detectors of a text channel", MOST_US, whole, "us/token"),
        Bar.at_most("memory of all loop detectors", MOST_KIB, memory, "KiB/stream"),
    ]
    return Table("Cost of the loop detectors", columns, tuple(rows), note), bars


@dataclass(frozen=True, slots=True)
class Point:
    """One detector at one setting. first: the index at which a document reaches FALLBACK, None = it does not.
    periods: of the loops that it is shown."""

    detector: str
    setting: str
    kinds: tuple[str, ...]
    periods: tuple[int, ...]
    first: Callable[[list[Token]], int | None]


def points() -> list[Point]:
    """The sweep."""
    mutated = tuple(kind for kind in KINDS if kind not in ("exact", "counter"))
    found = [
        Point("exact", f"copies {copies}, tokens {covered}", ("exact",), SWEEP_PERIODS, _exact(copies, covered))
        for copies, covered in ((3, 96), (4, 128), (4, 256), (4, 512), (6, 1024))
    ]
    found += [
        Point("near-repeat", f"short {short}, long {long}", mutated, SWEEP_PERIODS, _near(short, long))
        for short, long in ((0.65, 0.6), (0.75, 0.68), (0.84, 0.75), (0.9, 0.85), (0.96, 0.94))
    ]
    long = tuple(kind for kind in mutated if kind not in ("paraphrase", "alternation"))
    found += [
        Point("near-repeat, long units", setting, long, LONG_PERIODS, _near(0.84, 0.75, filled))
        for setting, filled in (
            ("filled in from 0.1", 0.1),
            ("filled in from 0.2", 0.2),
            ("filled in from 0.4", 0.4),
            ("filled in from 0.6", 0.6),
            ("never filled in", 2.0),
        )
    ]
    found += [
        Point("counter", f"copies 4, symbols {covered}", ("counter",), SWEEP_PERIODS, _counter(covered))
        for covered in (128, 256, 512, 1024)
    ]
    found += [
        Point("bytes", f"copies 4, bytes {covered}", ("exact",), SWEEP_PERIODS, _bytes(covered))
        for covered in (384, 512, 1024, 2048)
    ]
    return found


def sweep(documents: list[list[Token]], seeds: int = 2) -> Table:
    """Documents and traps flagged and loops missed, per point."""
    rows: list[tuple[Cell, ...]] = []
    trapped = [pieces(traps.made(name, seed))[:TRAP_TOKENS] for name in traps.TRAPS for seed in range(seeds)]
    for point in points():
        flagged = sum(point.first(document) is not None for document in documents)
        caught = sum(point.first(document) is not None for document in trapped)
        delays = [
            LOOP_TOKENS if at is None or at < LEAD else at - LEAD + 1
            for kind in point.kinds
            for period in point.periods
            for seed in range(seeds)
            for at in [point.first(stream(kind, period, seed)[: LEAD + LOOP_TOKENS])]
        ]
        missed = sum(delay >= LOOP_TOKENS for delay in delays)
        rows.append(
            (
                point.detector,
                point.setting,
                f"{flagged} of {len(documents)}",
                f"{caught} of {len(trapped)}",
                100 * missed / len(delays),
                statistics.median(delays),
            )
        )
    columns = ("detector", "FALLBACK at", "clean documents", "traps, bare", "loops missed %", "median delay")
    note = (
        f"Each alone, as in text without a fence; loops of its own kinds with periods {SWEEP_PERIODS}, long "
        f"ones {LONG_PERIODS}. Together they also leave alone what follows code."
    )
    return Table("Threshold sweep", columns, tuple(rows), note)


def _exact(copies: int, covered: int) -> Callable[[list[Token]], int | None]:
    def first(document: list[Token]) -> int | None:
        detector = PeriodDetector(Thresholds(None, Threshold(copies, covered), _NEVER))
        return next((i for i, (token, _) in enumerate(document) if detector.feed(i, token) is not None), None)

    return first


def _near(short: float, long: float, filled: float = 0.4) -> Callable[[list[Token]], int | None]:
    shipped = LoopSettings().near
    chosen = replace(
        shipped,
        short_suspect=min(short, shipped.short_suspect),
        short_fallback=short,
        long_suspect=min(long, shipped.long_suspect),
        long_fallback=long,
        filled=filled,
    )

    def first(document: list[Token]) -> int | None:
        detector = NearRepeat(chosen)
        for i, (token, text) in enumerate(document):
            if (detector.push(i, token, read(text).symbol) or 0) >= Grade.FALLBACK:
                return i
        return None

    return first


def _counter(covered: int) -> Callable[[list[Token]], int | None]:
    chosen = Thresholds(None, Threshold(4, covered), _NEVER)

    def first(document: list[Token]) -> int | None:
        detector = CounterLoop(chosen)
        return next((i for i, (_, text) in enumerate(document) if detector.push(i, read(text), text)), None)

    return first


def _bytes(covered: int) -> Callable[[list[Token]], int | None]:
    chosen = Thresholds(None, Threshold(4, covered), _NEVER)
    settings = replace(LoopSettings(), byte_text=chosen, byte_text_short=chosen)

    def first(document: list[Token]) -> int | None:
        loops = ByteLoops(settings)
        return next((i for i, (_, text) in enumerate(document) if loops.feed(i, text.encode("utf-8", "replace"))), None)

    return first


def _us(run: Callable[[], object], count: int) -> float:
    """Processor time per token in the fastest round."""
    times = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return min(times) / count * 1e6


def _kib(run: Callable[[], object]) -> float:
    """What is still held when all was fed; the cache of token texts is filled and belongs to no stream."""
    run()
    tracemalloc.start()
    kept = run()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held / 1024
