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
from proxy.bench.detectors import corpus, traps
from proxy.bench.detectors.tokens import pieces
from proxy.bench.report import Cell, Table

TRAP_SEEDS = 40


@dataclass(frozen=True, slots=True, order=True)
class Alarm:
    """A legitimate document that was flagged: how it was written, its file's name, and what was told."""

    category: str
    file: str
    part: str
    detector: str
    grade: str
    token: int


@dataclass(slots=True)
class Count:
    """flagged: documents by their gravest grade; speakers: the detectors that gave FALLBACK or worse."""

    documents: int = 0
    tokens: int = 0
    chars: int = 0
    flagged: dict[Grade, int] = field(default_factory=dict)
    speakers: dict[str, int] = field(default_factory=dict)

    def add(
        self, tokens: list[tuple[int, str]], channel: str, settings: LoopSettings | None = None
    ) -> tuple[str, str, int] | None:
        """Feeds one document to the detectors of its channel; answers who first gave the gravest grade from FALLBACK
        on, that grade, and the token."""
        self.documents += 1
        self.tokens += len(tokens)
        self.chars += sum(len(text) for _, text in tokens)
        loops, worst, alarm = ChannelLoops(settings, channel), None, None
        speakers: set[str] = set()
        for position, (token, text) in enumerate(tokens):
            found = loops.feed(position, token, text)
            if found is not None:
                if found.grade >= Grade.FALLBACK:
                    speakers.add(speaker := found.detector.removeprefix("loop."))
                    if worst is None or found.grade > worst:
                        alarm = speaker, found.grade.name.lower(), position
                worst = max(worst or found.grade, found.grade)
        if worst is not None:
            self.flagged[worst] = self.flagged.get(worst, 0) + 1
        for speaker in speakers:
            self.speakers[speaker] = self.speakers.get(speaker, 0) + 1
        return alarm

    def merge(self, other: Count) -> None:
        self.documents += other.documents
        self.tokens += other.tokens
        self.chars += other.chars
        for grade, count in other.flagged.items():
            self.flagged[grade] = self.flagged.get(grade, 0) + count
        for speaker, count in other.speakers.items():
            self.speakers[speaker] = self.speakers.get(speaker, 0) + count

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


def traps_table(counts: dict[str, dict[str, Count]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, ways in counts.items():
        row: list[Cell] = [name, next(iter(ways.values())).documents]
        for count in ways.values():
            fallback, abort = count.at_least(Grade.FALLBACK), count.at_least(Grade.ABORT)
            row.append(f"{fallback} {interval(fallback, count.documents)}" + (f", abort {abort}" if abort else ""))
        rows.append(tuple(row))
    columns = ("made text", "documents", "bare: fallback", "fenced: fallback", "arguments: fallback")
    return Table("False alarms on traps", columns, tuple(rows), "In brackets: 95 % Wilson interval, %.")


def interval(hits: int, trials: int) -> str:
    """As text, in per cent."""
    low, high = wilson(hits, trials)
    return f"[{100 * low:.2f}, {100 * high:.2f}]"
