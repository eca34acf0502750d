"""Incidents for people: a table of many, a page for one.

Must not: read a store or decide what happened; it shows what is recorded.
Invariant: every figure shown is in the record, under a name a reader can look up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from proxy.incidents import Record
from proxy.incidents.statistics import TABLES, Statistics
from proxy.incidents.withheld import WITHHELD

STATES = {"open": "still open", "died": "died while open"}
CULPRITS = {
    "speculation": "speculation (draft and verify)",
    "kv": "the compressed KV cache",
    "prefix": "the prefix cache",
    "filter": "the filter on tokens (grammar)",
    "model": "the model itself",
    "unknown": "not known",
}


def incident_table(records: Sequence[Record]) -> Table:
    """One line per incident, newest first as given."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("incident", "time", "detector", "culprit", "mode", "rewound", "outcome"):
        table.add_column(name, no_wrap=name == "incident")
    for record in records:
        opened = record.opened
        table.add_row(
            record.id,
            record.opened_at[:19].replace("T", " "),
            escape(str(opened.get("detector"))),
            escape(record.culprit or "-"),
            f"{opened.get('mode_before')} -> {opened.get('mode_after')}",
            str(opened.get("tokens_rewound")),
            escape(record.state),
        )
    return table


def incident_page(record: Record) -> RenderableType:
    """What tripped, where, what was done, whether it helped, and who is to blame."""
    opened, closed = record.opened, record.closed or {}
    culprit = record.culprit or "unknown"
    rows = [
        ("tripped", f"{opened.get('detector')} ({opened.get('grade')}): {opened.get('reason')}"),
        ("where", _where(opened)),
        ("done", _done(opened)),
        ("rule", str(opened.get("rule") or "")),
        ("cost", _cost(closed)),
        ("outcome", f"{STATES.get(record.state, record.state)}, finish reason {closed.get('finish_reason') or '-'}"),
        ("culprit", f"{CULPRITS.get(culprit, culprit)}, {record.certainty or 'not judged yet'}{_before(record)}"),
        ("proof", _proof(closed.get("proof") or {})),
        ("evidence", _pairs(opened.get("evidence") or {})),
        ("texts", "\n".join(f"{name}: {text}" for name, text in (opened.get("texts") or {}).items())),
        ("tool", str(opened.get("tool") or "")),
        ("audits", _pairs(opened.get("audits") or {})),
        ("drafts", _pairs(opened.get("drafts") or {})),
        ("request", f"{opened.get('request_id')}, {opened.get('api')}, model {opened.get('model')}"),
        ("replay", f"seed {opened.get('seed')}, temperature {opened.get('temperature')}, "
                   f"prompt sha256 {str(opened.get('prompt_sha256'))[:16]}, model {opened.get('fingerprint')}"),
        ("captured", _captured(record.capture)),
        ("rules", _pairs({k: str(v)[:16] for k, v in (opened.get("origin") or {}).items() if v})),
        ("versions", _pairs(opened.get("versions") or {})),
    ]  # fmt: skip
    table = _grid(rows)
    judged = record.judged or {}
    tables = [_rows("judged by running it again", judged.get("axes")), _rows("last steps", opened.get("steps"))]
    return Group(f"[bold]{record.id}[/]  {record.opened_at}", table, *(each for each in tables if each is not None))


def statistics_page(counted: Statistics) -> RenderableType:
    """Counts by what and by whom, and what falling back cost."""
    plain = counted.plain()
    if not counted.incidents:
        return "no incidents"
    rows = []
    for name in TABLES:
        counts = plain[name]
        rows.append((name, "\n".join(f"{count:>6}  {what}" for what, count in counts.items())))
    cost = plain["rewind_ms"]
    if plain["rewinds"]:
        text = f"{plain['rewinds']} rewinds, p50 {cost['p50']:.1f} ms, p90 {cost['p90']:.1f} ms"
        rows.append(("cost", f"{text}, {counted.tokens_rewound} tokens thrown away"))
    table = _grid(rows)
    return Group(f"[bold]{counted.incidents}[/] incidents, {counted.first[:19]} to {counted.last[:19]}", table)


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        if text:
            table.add_row(name, escape(_printable(text)))
    return table


def _printable(text: str) -> str:
    """What a model wrote may command a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def _rows(title: str, rows: Sequence[Mapping[str, Any]] | None) -> RenderableType | None:
    """Mappings as a table; a column that no row fills is left out."""
    if not rows:
        return None
    every = dict.fromkeys(name for row in rows for name in row if name != WITHHELD)
    names = [name for name in every if any(_is_told(row.get(name)) for row in rows)]
    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for name in names:
        table.add_column(escape(name))
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in names))
    return Group("", table)


def _is_told(value: Any) -> bool:
    return value is not None and value is not False and value not in ("", [])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else _short(value)


def _captured(capture: Mapping[str, Any] | None) -> str:
    """What is there to replay it with."""
    if capture is None:
        return "no; with `incidents.capture = true` it could be run again"
    if "request" not in capture:
        return "the prompt alone, by an older version"
    if capture.get("redacted"):
        return f"without token ids, since secrets were redacted ({', '.join(capture['redacted'])})"
    ids = [len(capture.get(name) or ()) for name in ("prompt_ids", "kept_ids", "lost_ids")]
    return f"{ids[0]} tokens of prompt, {ids[1]} of response, {ids[2]} discarded; `specguard replay` runs it again"


def _before(record: Record) -> str:
    """What was said before it was judged by running it again, if that was something else."""
    first = (record.closed or {}).get("culprit")
    if record.judged is None:
        return ""
    return ", by running it again" + (f" (at first: {first})" if first and first != record.culprit else "")


def _where(opened: dict[str, Any]) -> str:
    return (
        f"{opened.get('channel')}, tokens {opened.get('began')} to {opened.get('position')} of the response, "
        f"{opened.get('context')} tokens of context"
    )


def _done(opened: dict[str, Any]) -> str:
    if opened.get("action") == "start":
        return f"the response was begun in {opened.get('mode_after')} instead of {opened.get('mode_before')}"
    if opened.get("action") != "rewind":
        done = {
            "end": "the response was ended",
            "repair": "the call was mended and sent",
            "none": "nothing was changed",
        }
        return done.get(str(opened.get("action")), "")
    return (
        f"rewound {opened.get('tokens_rewound')} tokens to token {opened.get('rewound_to')}, "
        f"{opened.get('mode_before')} -> {opened.get('mode_after')} in the same response, "
        f"state rebuilt: {opened.get('rebuild')}"
    )


def _cost(closed: dict[str, Any]) -> str:
    if not closed:
        return ""
    return (
        f"{closed.get('milliseconds', 0):.1f} ms, {closed.get('rebuilt')} tokens computed again, "
        f"{closed.get('discarded_tokens')} tokens thrown away, {closed.get('completion_tokens')} kept"
    )


def _proof(proof: dict[str, Any]) -> str:
    told_above = ("culprit", "certainty")
    return _pairs({k: v for k, v in proof.items() if v not in (None, [], ()) and k not in told_above})


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items() if value not in (None, {}, []))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 12:
        return f"[{', '.join(map(str, value[:12]))}, ... {len(value)} in all]"
    return str(value)
