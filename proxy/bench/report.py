"""The form of every `specguard bench ...`: settings, tables, bars with measured values, what was missed. And its print.

Must not: import torch or the engine (a benchmark of detectors needs neither), or measure.
Invariant: `missed` at the top level holds exactly the names of bars that were measured and not reached. The fields are
those of engine.bench.report, which may not import this module; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise. target: as text, `<= 2 %`; measured: in the target's unit; holds: whether it was reached."""

    name: str
    target: str
    measured: float
    holds: bool

    @classmethod
    def at_least(cls, name: str, target: float, measured: float, unit: str = "") -> Bar:
        return cls(name, f">= {target:g} {unit}".rstrip(), measured, measured >= target)

    @classmethod
    def at_most(cls, name: str, target: float, measured: float, unit: str = "") -> Bar:
        return cls(name, f"<= {target:g} {unit}".rstrip(), measured, measured <= target)


@dataclass(frozen=True, slots=True)
class Table:
    """rows: one cell per column; None = does not apply."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """settings: what was run on what; unmeasured: bar -> why there is no value; data: raw figures for machines."""

    bench: str
    settings: Mapping[str, Any]
    tables: tuple[Table, ...]
    bars: tuple[Bar, ...] = ()
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        return [bar.name for bar in self.bars if not bar.holds]

    def plain(self) -> dict[str, Any]:
        """JSON data; `missed` stands at the top level."""
        return {**asdict(self), "missed": self.missed}

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Report:
        """From `plain()`, this class's or the engine's."""
        return cls(
            bench=plain["bench"],
            settings=plain["settings"],
            tables=tuple(
                Table(t["title"], tuple(t["columns"]), tuple(tuple(row) for row in t["rows"]), t["note"])
                for t in plain["tables"]
            ),
            bars=tuple(Bar(b["name"], b["target"], b["measured"], b["holds"]) for b in plain["bars"]),
            unmeasured=plain["unmeasured"],
            data=plain["data"],
        )


def show(report: Report, console: Console, *, as_json: bool) -> None:
    """Prints a report for people, or as one JSON document."""
    if as_json:
        print(orjson.dumps(report.plain(), option=orjson.OPT_INDENT_2).decode())
        return
    console.print("  ".join(f"{name} {value}" for name, value in report.settings.items()), style="dim", markup=False)
    for table in report.tables:
        _print(table, console)
    if report.bars:
        rows = tuple((b.name, b.target, b.measured, "holds" if b.holds else "MISSED") for b in report.bars)
        _print(Table("Bars", ("bar", "target", "measured", ""), rows), console)
    for name, reason in report.unmeasured.items():
        console.print(f"not measured: {name} ({reason})", markup=False)
    console.print(f"missed: {', '.join(report.missed) or 'none'}", markup=False)


def shown(cell: Cell) -> str:
    """A cell as text: three significant digits."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)


def _print(table: Table, console: Console) -> None:
    view = RichTable(
        title=table.title, title_justify="left", caption=table.note or None, caption_justify="left", box=None
    )
    for index, column in enumerate(table.columns):
        numeric = any(isinstance(row[index], int | float) for row in table.rows)
        view.add_column(column, justify="right" if numeric else "left")
    for row in table.rows:
        view.add_row(*(escape(shown(cell)) for cell in row))
    console.print()
    console.print(view)
