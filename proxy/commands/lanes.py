"""`specguard lanes`: what the configured lanes can tell and do, what speaks against them, and what that costs.

Must not: need a server of ours that runs, or show a lane's key.
Invariant: what is shown was asked for now; a lane that does not answer is told, and the others are shown all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.commands.settings import load
from proxy.configuration.config import Config, ConfigProblem
from proxy.lanes.asking import Target
from proxy.lanes.capabilities import LaneCapabilities, missing
from proxy.lanes.identity import LaneSilent
from proxy.lanes.known_bad import matches
from proxy.lanes.probe import Probed, probe
from proxy.lanes.settings import Lanes
from proxy.lanes.watch import NOT_PLAIN, no_drift_figure

PIPED_WIDTH = 200
FIELDS = tuple(LaneCapabilities().plain())


def add(lanes: argparse.ArgumentParser) -> None:
    """Its arguments."""
    lanes.description = (
        "Asks the lanes of the configuration a dozen small things each, and shows what they can tell and "
        "do, which known-bad settings they run, and what each missing capability costs. Status 1 if one of them does "
        "not answer."
    )
    lanes.add_argument("--config", type=Path, metavar="FILE", help="configuration with a section [lanes]")
    lanes.add_argument("--json", action="store_true", help="machine-readable")
    lanes.set_defaults(run=lambda options: _lanes(load(options), options.json))


def targets(lanes: Lanes, environment: Mapping[str, str]) -> list[Target]:
    """The lanes that are configured. Raises ConfigProblem if there is none."""
    if not lanes.configured:
        raise ConfigProblem(
            "lanes.fast.url: no lane is configured; name a server in the configuration, such as "
            'url = "http://127.0.0.1:8000" below [lanes.fast]'
        )
    found = [Target.of("fast", lanes.fast, environment)]
    return [*found, Target.of("plain", lanes.plain_lane, environment)] if lanes.has_plain else found


async def probe_all(wanted: Sequence[Target]) -> list[Probed | LaneSilent]:
    """One after the other where they are the same server, so that none disturbs the other's counters."""
    found: list[Probed | LaneSilent] = []
    for target in wanted:
        try:
            found.append(await probe(target))
        except LaneSilent as silent:
            found.append(silent)
    return found


def _lanes(config: Config, as_json: bool) -> int:
    wanted = targets(config.lanes, os.environ)
    found = asyncio.run(probe_all(wanted))
    if as_json:
        rows = [_row(target, each) for target, each in zip(wanted, found, strict=True)]
        print(orjson.dumps({"lanes": rows}, option=orjson.OPT_INDENT_2).decode())
    else:
        _show([each for each in found if isinstance(each, Probed)], len(wanted))
    silent = [str(each) for each in found if isinstance(each, LaneSilent)]
    for line in silent:
        print(f"specguard: {line}", file=sys.stderr)
    return 1 if silent else 0


def _row(target: Target, found: Probed | LaneSilent) -> dict[str, Any]:
    if isinstance(found, LaneSilent):
        return {"name": target.name, "url": target.root, "error": str(found)}
    return found.plain() | {"known_bad": [row.plain() for row in matches(found.capabilities)]}


def _show(found: Sequence[Probed], configured: int) -> None:
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    if not found:
        return
    table = Table("", *(f"{each.target.name} lane" for each in found), box=None, pad_edge=False)
    table.add_row("address", *(escape(each.target.root) for each in found))
    table.add_row("model", *(escape(each.model or "-") for each in found))
    for name in FIELDS:
        table.add_row(name.replace("_", " "), *(escape(_cell(each.capabilities.plain()[name])) for each in found))
    console.print(table)
    for each in found:
        _show_costs(console, each)
    for each in found:
        for row in matches(each.capabilities):
            grade = "[bold red]known bad[/]" if row.untrusted else "[bold]to watch[/]"
            console.print(f"\n{grade}, {each.target.name} lane, {row.id}: {escape(row.consequence)}")
            console.print(f"  source: {escape(', '.join(row.source))}\n  remedy: {escape(row.remedy)}")
            if row.untrusted and each.target.name != "plain":
                serves = "the plain lane serves" if configured > 1 else "it serves all the same: there is no other lane"
                console.print(f"  until its canaries have passed, {serves}")
    for each in found:
        if each.target.name == "plain" and each.capabilities.speculates:
            console.print(
                f"\n[bold red]the plain lane drafts[/] ({escape(each.capabilities.speculation or '')}): {NOT_PLAIN}"
            )
    by_name = {each.target.name: each for each in found}
    if "fast" in by_name and (why := no_drift_figure(by_name["fast"], by_name.get("plain"))):
        console.print(f"\ndrift of the fast lane: unknown, and not shown to be small; {escape(why)}")
    if configured == 1:
        console.print("\nthere is no plain lane: nothing to fall back to; name one below \\[lanes.plain]")


def _show_costs(console: Console, found: Probed) -> None:
    costs = missing(found.capabilities)
    rows = {name: costs.get(name, "") for name in (*costs, *(each for each in found.reasons if each not in costs))}
    if not rows:
        return
    table = Table(f"{found.target.name} lane", "why", "what it costs", box=None, pad_edge=False)
    for name, cost in rows.items():
        table.add_row(name.replace("_", " "), escape(found.reasons.get(name, "")), escape(cost))
    console.print()
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not told" if value in (None, "") else str(value)
