"""What the runs of a replay have shown, for people and for programs.

Must not: run anything or judge. Invariant: every figure shown is in the rows that the judgement keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from policies.axes import INSTEAD, AxesVerdict
from proxy.incidents import Record
from proxy.incidents.report import CULPRITS
from proxy.replays.capture import Capture
from proxy.replays.runs import Judged

CHANGED = {
    "none": "as it was",
    "all": "all: the trusted baseline",
    "draft": "no drafts",
    "codec": "full KV cache",
    "prefix": "cold prefix",
    "filter": "no filter",
}


def replay_page(record: Record, capture: Capture, found: Judged, fingerprint: str) -> RenderableType:
    """The evidence and the verdict in words. fingerprint: of the model that is loaded now."""
    opened = record.opened
    lines = [
        f"[bold]{record.id}[/]  {escape(str(opened.get('detector')))} at token {opened.get('position')} "
        f"of the response, {capture.mode}, {len(capture.prompt_ids)} prompt tokens"
    ]
    if other_model(record, fingerprint):
        lines.append(f"[bold red]another model[/]: it was {opened.get('fingerprint')}, this is {fingerprint}")
    said = (*capture.kept_ids, *capture.lost_ids)
    return Group(*lines, "", _table(found.rows, said, found.texts), "", verdict_line(record, found.verdict))


def replay_data(record: Record, found: Judged, fingerprint: str) -> dict[str, Any]:
    """The same as JSON data."""
    verdict, closed = found.verdict, record.closed or {}
    return {
        "incident": record.id,
        "detector": record.opened.get("detector"),
        "position": record.opened.get("position"),
        "culprit": str(verdict.culprit) if verdict.culprit is not None else str(closed.get("culprit", "unknown")),
        "certainty": verdict.certainty if verdict.culprit is not None else str(closed.get("certainty", "none")),
        "reproduced": verdict.culprit is not None,
        "finished": verdict.finished,
        "note": verdict.note,
        "axes": [{**row, "text": _text(row["instead"], found.texts)} for row in found.rows],
        "milliseconds": round(found.milliseconds, 1),
        "model": {"then": record.opened.get("fingerprint"), "now": fingerprint},
    }


def other_model(record: Record, fingerprint: str) -> bool:
    """Is another model loaded than the one that gave the response?"""
    then = record.opened.get("fingerprint")
    return bool(then) and then != fingerprint


def _table(rows: Sequence[Mapping[str, Any]], said: Sequence[int], texts: Mapping[int, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("changed", "mode", "prefix", "tokens", "first difference", "then", "instead", "trouble", "cures"):
        table.add_column(name, no_wrap=name in ("changed", "mode"))
    for row in rows:
        at = row["first_difference"]
        then = () if at is None else said[at : at + INSTEAD]
        table.add_row(
            CHANGED[row["axis"]],
            row["mode"],
            f"{row['cached']} {row['prefix']}" if row["cached"] else "cold",
            str(row["tokens"]),
            "-" if at is None else f"token {at}",
            escape(_shown(then, texts)),
            escape(_shown(row["instead"], texts)),
            _trouble(row),
            "yes" if row["cures"] else "",
        )
    return table


def _trouble(row: Mapping[str, Any]) -> str:
    found = [
        name
        for name, there in (
            ("recurs", row["recurs"]),
            ("audit mismatch", row["audit_mismatch"]),
            ("cache not clean", row["clean"] is False),
        )
        if there
    ]
    return ", ".join(found) or "no"


def verdict_line(record: Record, verdict: AxesVerdict) -> str:
    """In words, with markup of the console."""
    closed = record.closed or {}
    if verdict.culprit is None:
        culprit, certainty = str(closed.get("culprit", "unknown")), closed.get("certainty", "none")
        before = f"the record's verdict stands: {CULPRITS.get(culprit, culprit)}, {certainty}"
        return f"[bold]verdict[/]  {escape(verdict.note)}; {escape(before)}"
    culprit = str(verdict.culprit)
    return f"[bold]verdict[/]  {escape(CULPRITS.get(culprit, culprit))}, {verdict.certainty}: {escape(verdict.note)}"


def _shown(ids: Sequence[int], texts: Mapping[int, str]) -> str:
    return f"{_text(ids[:4], texts)!r} {list(ids[:4])}" if ids else ""


def _text(ids: Sequence[int], texts: Mapping[int, str]) -> str:
    return "".join(texts.get(token, "\ufffd") for token in ids)
