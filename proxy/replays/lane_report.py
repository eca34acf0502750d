"""What asking lanes again has shown, for people and for programs.

Must not: ask anything or judge. Invariant: every figure shown is in the rows that the judgement keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from proxy.incidents import Record
from proxy.replays.capture import Capture
from proxy.replays.report import verdict_line
from proxy.replays.runs import Judged

CHANGED = {
    "none": "as it was",
    "all": "all that can be",
    "prefix": "prefix read anew",
    "filter": "nothing demanded",
    "lane": "plain lane",
}


def lane_page(record: Record, capture: Capture, found: Judged, cannot: Sequence[str]) -> RenderableType:
    """The evidence, the verdict in words, and what could not be asked again."""
    opened = record.opened
    head = (
        f"[bold]{record.id}[/]  {escape(str(opened.get('detector')))} at token {opened.get('position')} "
        f"of the response, {capture.mode}, {len(capture.request.messages)} messages"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("changed", "lane", "prefix", "demands", "tokens", "trouble", "cures"):
        table.add_column(name)
    for row in found.rows:
        table.add_row(
            CHANGED[row["axis"]],
            row["name"],
            row["prefix"],
            "kept" if row["filtered"] else "none",
            str(row["tokens"]),
            escape(row["reason"]) or "no",
            "yes" if row["cures"] else "",
        )
    lines = [f"[bold]cannot be asked again[/]  {escape(each)}" for each in cannot]
    return Group(head, "", table, "", verdict_line(record, found.verdict), *lines)


def lane_data(record: Record, found: Judged, cannot: Sequence[str], fingerprint: str) -> dict[str, Any]:
    """The same as JSON data. fingerprint: of the lanes now."""
    verdict, closed = found.verdict, record.closed or {}
    named = verdict.culprit is not None
    return {
        "incident": record.id,
        "detector": record.opened.get("detector"),
        "position": record.opened.get("position"),
        "culprit": str(verdict.culprit) if named else str(closed.get("culprit", "unknown")),
        "certainty": verdict.certainty if named else str(closed.get("certainty", "none")),
        "reproduced": named,
        "finished": verdict.finished,
        "note": verdict.note,
        "axes": list(found.rows),
        "cannot": list(cannot),
        "milliseconds": round(found.milliseconds, 1),
        "model": {"then": record.opened.get("fingerprint"), "now": fingerprint},
    }
