"""How often legitimate documents are flagged, by kind of text, with intervals.

Must not: show or keep a document.
Invariant: a rate is documents flagged at least so gravely over documents fed; bars compare the rate itself, the
interval says how much it can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from detectors.channel_loops import ChannelLoops
from detectors.finding import Grade
from detectors.loop_settings import LoopSettings
from proxy.bench_detectors import corpus, traps
from proxy.bench_detectors.tokens import Cut, embedded, pieces
from proxy.bench_report import Bar, Cell, Table

FALLBACK_PERCENT = {"text": 0.05, "arguments": 0.3}
ABORT_PERCENT = 0.03
TRAP_SEEDS = 40


@dataclass(slots=True)
class Count:
    """flagged: documents by their gravest grade; speakers: the detectors that gave FALLBACK or worse."""

    documents: int = 0
    tokens: int = 0
    chars: int = 0
    flagged: dict[Grade, int] = field(default_factory=dict)
    speakers: dict[str, int] = field(default_factory=dict)

    def add(self, tokens: list[tuple[int, str]], channel: str, settings: LoopSettings | None = None) -> None:
        """Feeds one document to the detectors of its channel."""
        self.documents += 1
        self.tokens += len(tokens)
        self.chars += sum(len(text) for _, text in tokens)
        loops, worst = ChannelLoops(settings, channel), None
        speakers: set[str] = set()
        for position, (token, text) in enumerate(tokens):
            found = loops.feed(position, token, text)
            if found is not None:
                worst = max(worst or found.grade, found.grade)
                if found.grade >= Grade.FALLBACK:
                    speakers.add(found.detector.removeprefix("loop."))
        if worst is not None:
            self.flagged[worst] = self.flagged.get(worst, 0) + 1
        for speaker in speakers:
            self.speakers[speaker] = self.speakers.get(speaker, 0) + 1

    def at_least(self, grade: Grade) -> int:
        return sum(count for flagged, count in self.flagged.items() if flagged >= grade)

    def percent(self, grade: Grade) -> float:
        return 100 * self.at_least(grade) / self.documents if self.documents else 0.0


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a share (E. B. Wilson, 1927), as shares."""
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def count_corpus(share: int) -> dict[str, Count]:
    """The machine's own sources and prose; one of `share` files of the installed packages. Minutes.

    Sources come fenced, bare, and as arguments; with the embedded model's tokenizer a part of them once more.
    """
    counts = {
        name: Count() for name in ("prose", "code, fenced", "code, bare", "arguments", "arguments, embedded tokenizer")
    }
    try:
        other: Cut | None = embedded()
    except ImportError:
        other = None
    for index, source in enumerate(corpus.sources(share)):
        argument = corpus.argument(source)
        counts["code, fenced"].add(pieces(corpus.fenced(source)), "text")
        counts["code, bare"].add(pieces(source), "text")
        counts["arguments"].add(pieces(argument), "tool:0")
        if other is not None and index % 8 == 0:
            counts["arguments, embedded tokenizer"].add(other(argument), "tool:0")
    for document in corpus.prose(share):
        counts["prose"].add(pieces(document), "text")
    return {name: count for name, count in counts.items() if count.documents}


def count_traps(seeds: int = TRAP_SEEDS) -> dict[str, dict[str, Count]]:
    """Trap -> way it is written -> count."""
    return {name: _count_trap(name, range(seeds)) for name in traps.TRAPS}


def _count_trap(name: str, seeds: Iterable[int]) -> dict[str, Count]:
    counts = {"bare": Count(), "fenced": Count(), "arguments": Count()}
    for seed in seeds:
        text = traps.made(name, seed)
        counts["bare"].add(pieces(text), "text")
        counts["fenced"].add(pieces(corpus.fenced(text)), "text")
        counts["arguments"].add(pieces(corpus.argument(text)), "tool:0")
    return counts


def corpus_table(counts: dict[str, Count]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, count in counts.items():
        fallback, abort = count.at_least(Grade.FALLBACK), count.at_least(Grade.ABORT)
        rows.append(
            (
                name,
                count.documents,
                round(count.chars / 1e6, 1),
                round(count.tokens / 1e6, 1),
                count.percent(Grade.SUSPECT),
                f"{fallback} = {count.percent(Grade.FALLBACK):.3f} {_interval(fallback, count.documents)}",
                f"{abort} = {count.percent(Grade.ABORT):.3f} {_interval(abort, count.documents)}",
                " ".join(f"{name} {n}" for name, n in sorted(count.speakers.items())),
            )
        )
    columns = ("text", "documents", "M chars", "M tokens", "suspect %", "fallback %", "abort %", "who spoke")
    return Table("False alarms on this machine's files", columns, tuple(rows), "In brackets: 95 % Wilson interval.")


def traps_table(counts: dict[str, dict[str, Count]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, ways in counts.items():
        row: list[Cell] = [name, next(iter(ways.values())).documents]
        for count in ways.values():
            fallback, abort = count.at_least(Grade.FALLBACK), count.at_least(Grade.ABORT)
            row.append(f"{fallback} {_interval(fallback, count.documents)}" + (f", abort {abort}" if abort else ""))
        rows.append(tuple(row))
    columns = ("made text", "documents", "bare: fallback", "fenced: fallback", "arguments: fallback")
    return Table("False alarms on traps", columns, tuple(rows), "In brackets: 95 % Wilson interval, %.")


def corpus_bars(counts: dict[str, Count]) -> list[Bar]:
    bars = []
    for name, count in counts.items():
        most = FALLBACK_PERCENT["arguments" if name.startswith("arguments") else "text"]
        bars.append(Bar.at_most(f"false fallbacks, {name}", most, count.percent(Grade.FALLBACK), "% of documents"))
        bars.append(Bar.at_most(f"false aborts, {name}", ABORT_PERCENT, count.percent(Grade.ABORT), "% of documents"))
    return bars


def _interval(hits: int, trials: int) -> str:
    low, high = wilson(hits, trials)
    return f"[{100 * low:.2f}, {100 * high:.2f}]"
