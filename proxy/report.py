"""Incidents for people: a table of many, a page for one.

Must not: read a store or decide what happened; it shows what is recorded.
Invariant: every figure shown is in the record, under a name a reader can look up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from proxy.incidents import Record

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
        opened, closed = record.opened, record.closed or {}
        table.add_row(
            record.id,
            record.opened_at[:19].replace("T", " "),
            escape(str(opened.get("detector"))),
            escape(str(closed.get("culprit", "-"))),
            f"{opened.get('mode_before')} -> {opened.get('mode_after')}",
            str(opened.get("tokens_rewound")),
            escape(str(closed.get("outcome", "open"))),
        )
    return table


def incident_page(record: Record) -> RenderableType:
    """What tripped, where, what was done, whether it helped, and who is to blame."""
    opened, closed = record.opened, record.closed or {}
    culprit = str(closed.get("culprit", "unknown"))
    rows = [
        ("tripped", f"{opened.get('detector')} ({opened.get('grade')}): {opened.get('reason')}"),
        ("where", _where(opened)),
        ("done", _done(opened)),
        ("cost", _cost(closed)),
        ("outcome", f"{closed.get('outcome', 'still open')}, finish reason {closed.get('finish_reason') or '-'}"),
        ("culprit", f"{CULPRITS.get(culprit, culprit)}, {closed.get('certainty', 'not judged yet')}"),
        ("proof", _proof(closed.get("proof") or {})),
        ("evidence", _pairs(opened.get("evidence") or {})),
        ("texts", "\n".join(f"{name}: {text}" for name, text in (opened.get("texts") or {}).items())),
        ("audits", _pairs(opened.get("audits") or {})),
        ("drafts", _pairs(opened.get("drafts") or {})),
        ("request", f"{opened.get('request_id')}, {opened.get('api')}, model {opened.get('model')}"),
        ("replay", f"seed {opened.get('seed')}, temperature {opened.get('temperature')}, "
                   f"prompt sha256 {str(opened.get('prompt_sha256'))[:16]}, model {opened.get('fingerprint')}"),
    ]  # fmt: skip
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        if text:
            table.add_row(name, escape(text))
    return Group(f"[bold]{record.id}[/]  {record.opened_at}", table)


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
    return _pairs({k: v for k, v in proof.items() if v not in (None, [], ())})


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items() if value not in (None, {}, []))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 12:
        return f"[{', '.join(map(str, value[:12]))}, ... {len(value)} in all]"
    return str(value)
