"""What the opt-in tests show at their end: which client, in which version, by which API, got through what.

Must not: decide on anything. Invariant: a cell says `ok` only of a test that passed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.table import Table

from tests.clients.installing import pins, version
from tests.clients.part import FAULTS

WORDS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for outcome, word in WORDS.items():
        for client, api, part in _told(terminalreporter, outcome):
            rows.setdefault((client, api), {})[part] = word
    if not rows:
        return
    table = Table("client", "version", "API", "round trip", *FAULTS, title="Clients, and a fallback in mid-response")
    known = [*pins()]
    for (client, api), cells in sorted(rows.items(), key=lambda row: (known.index(row[0][0]), row[0][1])):
        table.add_row(client, version(client), api, *(cells.get(part, "-") for part in ("none", *FAULTS)))
    Console(width=120).print(table)


def _told(reporter: pytest.TerminalReporter, outcome: str) -> Iterator[tuple[str, str, str]]:
    for report in reporter.stats.get(outcome, ()):
        told = dict(report.user_properties)
        if "client" in told:
            yield told["client"], told["api"], told["fault"]
