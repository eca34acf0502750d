"""What a benchmark hands back: settings, tables, bars with measured values, and which of them were missed.

Must not: measure, or round what `plain` returns.
Invariant: `missed` holds exactly the names of bars that were measured and not reached; a bar that could not be measured
is among `unmeasured` with its reason, never silently left out. The same form as proxy.bench.report, which may not
import this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise. target: as text, `>= 2 x`; measured: in the target's unit; holds: whether it was reached."""

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
    settings: dict[str, Any]
    tables: tuple[Table, ...]
    bars: tuple[Bar, ...] = ()
    unmeasured: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def missed(self) -> list[str]:
        return [bar.name for bar in self.bars if not bar.holds]

    def plain(self) -> dict[str, Any]:
        """JSON data; `missed` stands at the top level."""
        return {**asdict(self), "missed": self.missed}

    def text(self) -> str:
        """Aligned plain text."""
        parts = ["  ".join(f"{name} {value}" for name, value in self.settings.items())]
        parts += [_aligned(table) for table in self.tables]
        if self.bars:
            rows = tuple((b.name, b.target, b.measured, "holds" if b.holds else "MISSED") for b in self.bars)
            parts.append(_aligned(Table("Bars", ("bar", "target", "measured", ""), rows)))
        parts += [f"not measured: {name} ({reason})" for name, reason in self.unmeasured.items()]
        parts.append(f"missed: {', '.join(self.missed) or 'none'}")
        return "\n\n".join(parts)


def shown(cell: Cell) -> str:
    """A cell as text: three significant digits."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)


def _aligned(table: Table) -> str:
    lines: Sequence[Sequence[str]] = [table.columns, *([shown(cell) for cell in row] for row in table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    numeric = [any(isinstance(row[i], int | float) for row in table.rows) for i in range(len(table.columns))]
    text = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    note = [table.note] if table.note else []
    return "\n".join([table.title, *text, *note])
