"""What the corpus has shown, as tables and bars.

Must not: leave out a part of the corpus that is worse than another.
Invariant: a bar stands for all documents of a category, and again for those on which no number was chosen if they are
enough for its per cent; nothing is judged by a corpus that was not read to its end.
"""

from __future__ import annotations

from detectors.finding import Grade
from proxy.bench.detectors.corpus import PARTS, Part
from proxy.bench.detectors.false_alarms import Count, interval
from proxy.bench.detectors.survey import CATEGORIES, Survey
from proxy.bench.report import Bar, Cell, Table

FALLBACK_PERCENT = {"text": 0.05, "arguments": 0.3}
ABORT_PERCENT = 0.03
UNJUDGED = frozenset({"data"})
"""Nobody's answer: lists of files, tables of numbers. They are shown."""
SHOWN = 40
_UNSEEN: tuple[Part, ...] = ("held out", "elsewhere")


def tables(survey: Survey) -> list[Table]:
    """The rates, and what was flagged."""
    found = [_rates(survey)]
    if survey.alarms:
        rows = tuple(
            (alarm.category, alarm.part, alarm.detector, alarm.grade, alarm.token, alarm.file)
            for alarm in survey.alarms[:SHOWN]
        )
        note = f"{len(survey.alarms)} in all." if len(survey.alarms) > SHOWN else ""
        columns = ("text", "part", "detector", "grade", "token", "file")
        found.append(Table("Documents that were flagged", columns, rows, note))
    return found


def bars(survey: Survey) -> tuple[list[Bar], dict[str, str]]:
    """Of every category that is judged and has documents; and why there is none for some of the unseen files."""
    found, unmeasured = [], {}
    for category in CATEGORIES:
        if category in UNJUDGED:
            continue
        fallback = FALLBACK_PERCENT["arguments" if category.startswith("arguments") else "text"]
        whole, unseen = survey.count(category), survey.count(category, *_UNSEEN)
        for kind, grade, most in (("fallbacks", Grade.FALLBACK, fallback), ("aborts", Grade.ABORT, ABORT_PERCENT)):
            name = f"false {kind}, {category}"
            if whole.documents:
                found.append(Bar.at_most(name, most, whole.percent(grade), "% of documents"))
            if unseen.documents * most >= 100:
                found.append(Bar.at_most(f"{name}, unseen files", most, unseen.percent(grade), "% of documents"))
            elif unseen.documents:
                reason = (
                    f"one of {unseen.documents} documents would be more than {most} %; the table has what was found"
                )
                unmeasured[f"{name}, unseen files"] = reason
    return found, unmeasured


def _rates(survey: Survey) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for category in CATEGORIES:
        parts = [part for part in PARTS if part in survey.counts.get(category, {})]
        rows += [_row(category, part, survey.count(category, part)) for part in parts]
        if len(parts) > 1:
            rows.append(_row(category, "all", survey.count(category)))
    columns = ("text", "files", "documents", "M chars", "M tokens", "suspect %", "fallback %", "abort %", "who spoke")
    note = (
        "In brackets: 95 % Wilson interval. Numbers were chosen on half of this machine's files, by the hash of their "
        "names; `elsewhere` are the folders of --also. `data`: text files that are no prose; no bar is about them."
    )
    return Table("False alarms on files", columns, tuple(rows), note)


def _row(category: str, part: str, count: Count) -> tuple[Cell, ...]:
    return (
        category,
        part,
        count.documents,
        round(count.chars / 1e6, 1),
        round(count.tokens / 1e6, 1),
        count.percent(Grade.SUSPECT),
        _share(count, Grade.FALLBACK),
        _share(count, Grade.ABORT),
        " ".join(f"{name} {n}" for name, n in sorted(count.speakers.items())),
    )


def _share(count: Count, grade: Grade) -> str:
    hits = count.at_least(grade)
    return f"{hits} = {count.percent(grade):.3f} {interval(hits, count.documents)}"
