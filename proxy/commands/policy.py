"""`specguard policy`: check a policy file, show the one that holds, replay recorded incidents under another.

Must not: change anything, or decide: it prints what `policies` says.
Invariant: exit status 0 when a policy could be used, warnings included; what cannot be used is a ConfigProblem.
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from policies.overrides import ROUTES, Overrides, effective, unknown_routes
from policies.policy import Policy
from policies.rule_file import Override, shipped_text
from policies.rules import Rule, When, never_matching, unknown_detectors, unknown_modes
from proxy.commands.layout import Wide
from proxy.configuration import sources as configuration
from proxy.configuration.config import ConfigProblem
from proxy.configuration.policy_source import load_policy, read_policy
from proxy.incidents import IncidentStore, Record, StoreProblem
from proxy.replays.policies import Replayed, Summary, replay

EVERYTHING = 1 << 62
PIPED_WIDTH = 1000
_SETTINGS = tuple(field.name for field in fields(Policy) if field.name not in ("rules", "override"))
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add(policy: argparse.ArgumentParser) -> None:
    """Its views."""
    views = policy.add_subparsers(required=True, metavar="VIEW")
    check = views.add_parser("check", help="check a policy file and print its rules", formatter_class=Wide)
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(run=_check)
    show = views.add_parser("show", help="the policy that a server would go by", formatter_class=Wide)
    show.add_argument("--text", action="store_true", help="the shipped file itself, to copy and change")
    show.set_defaults(run=_show)
    again = views.add_parser(
        "replay",
        help="what a policy file would have done to recorded incidents",
        formatter_class=Wide,
        description="Repeats the decisions, not the responses: what came after another decision is not known, and such "
        "incidents are marked `?`. Incidents of older records, which lack some of what was known, are marked `~`.",
    )
    again.add_argument("file", type=Path, metavar="FILE")
    again.add_argument("--since", type=since, metavar="AGE", help="7d, 24h, 30m, or a date (default all)")
    again.add_argument("--incidents", metavar="FILE", help="store to read (default: as configured)")
    again.set_defaults(run=_replay)
    for view in (show, again):
        view.add_argument(
            "--config", type=Path, metavar="FILE", help="configuration (policy file, quick settings, store)"
        )
    for view in (check, show, again):
        view.add_argument("--json", action="store_true", help="machine-readable")


def since(text: str, now: datetime | None = None) -> str:
    """The time so long ago, or that was written, as records write it. Raises ArgumentTypeError."""
    now = now or datetime.now(UTC)
    try:
        if found := re.fullmatch(r"(\d{1,6})([smhdw])", text):
            then = now - timedelta(**{_UNITS[found[2]]: int(found[1])})
        else:
            then = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no age; write 7d, 24h, 30m or a date such as 2026-11-27"
        ) from None
    then = then.replace(tzinfo=UTC) if then.tzinfo is None else then.astimezone(UTC)
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def warnings(policy: Policy, overrides: Overrides) -> list[str]:
    """Rules that never match and globs for nobody, of the policy and with each override."""
    told = [
        f"rule {rule.name} can never match: {before.name} comes first and matches all that it does"
        for rule, before in never_matching(policy.rules)
    ]
    for override in overrides.overrides:
        own = {rule.name for rule in override.rules}
        merged = overrides.apply(policy, override).rules
        told += [
            f"rule {rule.name} of override {override.name} can never match: {before.name} comes first and matches all "
            "that it does"
            for rule, before in never_matching(merged)
            if rule.name in own
        ]
    everybody = (*policy.rules, *(rule for override in overrides.overrides for rule in override.rules))
    told += [f"rule {rule.name}: no detector answers to {glob!r}" for rule, glob in unknown_detectors(everybody)]
    told += [
        f"rule {rule.name}: no decode mode answers to {glob!r}; they are written DRAFTER/CODEC as in mtp/* or */k4v4, "
        "or plain"
        for rule, glob in unknown_modes(everybody)
    ]
    told += [
        f"override {override.name}: no API answers to route {glob!r}; there are {', '.join(ROUTES)}"
        for override, glob in unknown_routes(overrides.overrides)
    ]
    return told


def _check(options: argparse.Namespace) -> int:
    policy, overrides = effective(read_policy(options.file), {})
    _print_policy(policy, overrides, options.json)
    return 0


def _show(options: argparse.Namespace) -> int:
    if options.text:
        print(shipped_text(), end="")
        return 0
    policy, overrides = load_policy(configuration.load(options.config, os.environ, {}).guard)
    _print_policy(policy, overrides, options.json)
    return 0


def _replay(options: argparse.Namespace) -> int:
    policy, overrides = effective(read_policy(options.file), {})
    found: list[Replayed] = []
    summary = Summary()
    for each in replay(_records(options), policy, overrides):
        summary.take(each)
        found += [each] if each is not None else []
    if options.json:
        changes = [
            {"done": done, "would": would, "count": count} for (done, would), count in summary.changes.most_common()
        ]
        numbers = {**asdict(summary), "changes": changes}
        rows = [{**asdict(each), "same": each.same} for each in found]
        print(orjson.dumps({"summary": numbers, "incidents": rows}, option=orjson.OPT_INDENT_2).decode())
        return 0
    console = _console()
    if found:
        console.print(_replay_table(found))
        console.print()
    for line in _sentences(summary, found):
        console.print(escape(line))
    return 0


def _records(options: argparse.Namespace) -> Sequence[Record]:
    """Oldest first: what a response's incidents lead to depends on those before."""
    flags = {"incidents.path": options.incidents}
    path = Path(configuration.load(options.config, os.environ, flags).incidents.path)
    other = "name another with --incidents FILE"
    if not path.is_file():
        raise ConfigProblem(f"{path}: there is no incident store (a server makes it with its first incident); {other}")
    try:
        return IncidentStore(path).list(EVERYTHING, since=options.since or "")[::-1]
    except (sqlite3.Error, StoreProblem) as error:
        raise ConfigProblem(f"{path}: cannot be read as an incident store ({error}); {other}") from None


def _sentences(summary: Summary, found: Sequence[Replayed]) -> list[str]:
    if not summary.incidents and not summary.unreadable:
        return ["no incidents"]
    lines = [f"{summary.incidents} incidents: {summary.same} as it was, {summary.incidents - summary.same} otherwise"]
    lines += [f"  {count} x {done} -> {would}" for (done, would), count in summary.changes.most_common()]
    if summary.parted:
        lines.append(
            f"? {summary.parted} came after a decision that these rules would not have made; they might not have come"
        )
    if summary.assumed:
        lines.append(f"~ {summary.assumed} are not recorded in full:")
        lines += [f"    {reason}" for reason in dict.fromkeys(reason for each in found for reason in each.assumed)]
    if summary.unreadable:
        lines.append(f"{summary.unreadable} records were not understood and are left out")
    return lines


def _replay_table(found: Sequence[Replayed]) -> Table:
    table = _table("", "incident", "time", "detector", "grade", "done", "would", "rule", "override")
    for each in reversed(found):
        marks = ("?" if each.parted else "") + ("~" if each.assumed else "")
        would = each.would if each.same else f"[bold]{escape(each.would)}[/]"
        row = (each.id, each.time[:19].replace("T", " "), each.detector, each.grade, each.done)
        table.add_row(marks, *map(escape, row), would, escape(each.rule or "(none)"), escape(each.override))
    return table


def _print_policy(policy: Policy, overrides: Overrides, as_json: bool) -> None:
    told = warnings(policy, overrides)
    if as_json:
        plain = {
            **{name: getattr(policy, name) for name in _SETTINGS},
            "observe_by_header": overrides.observe_by_header,
            "rules": [_plain_rule(rule) for rule in policy.rules],
            "overrides": [_plain_override(override) for override in overrides.overrides],
            "warnings": told,
        }
        print(orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode())
        return
    console = _console()
    console.print(escape("\n".join(f"{name} = {_toml(getattr(policy, name))}" for name in _SETTINGS)))
    console.print()
    console.print(_rule_table(policy.rules))
    for override in overrides.overrides:
        console.print(f"\n[bold]override {escape(override.name)}[/] {escape(_matchers(override))}")
        for name, value in (override.settings or {}).items():
            console.print(escape(f"  {name} = {_toml(value)}"))
        if override.rules:
            console.print(_rule_table(override.rules))
    for line in told:
        print(f"warning: {line}", file=sys.stderr)


def _rule_table(rules: Sequence[Rule]) -> Table:
    table = _table("rule", "detector", "grade", "where", "do", "accuse")
    for rule in rules:
        when = rule.when
        cells = (rule.name, _any(when.detectors), _grades(when), _where(when), " > ".join(rule.do))
        table.add_row(*map(escape, cells), escape(rule.accuse if "rewind" in rule.do else ""))
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=name in ("incident", "rule"))
    return table


def _grades(when: When) -> str:
    if when.exactly is not None:
        return when.exactly.name.lower()
    return " or ".join(grade.name.lower() for grade in sorted(when.grades))


def _where(when: When) -> str:
    said = (("", when.channels), ("tool ", when.tools), ("mode ", when.modes))
    return ", ".join(name + " or ".join(values) for name, values in said if values) or "any"


def _any(globs: Sequence[str]) -> str:
    return " or ".join(globs) or "any"


def _matchers(override: Override) -> str:
    said = [("model", override.models), ("route", override.routes), ("tool", override.tools)]
    parts = [f"{name} {_any(globs)}" for name, globs in said if globs]
    parts += [f"header {name}: {glob}" for name, glob in override.headers]
    if override.by_header:
        parts.append("clients that name it (x-specguard-policy)")
    return f"for {', '.join(parts)}"


def _plain_rule(rule: Rule) -> dict[str, Any]:
    when = rule.when
    exactly = None if when.exactly is None else when.exactly.name.lower()
    matched = {"detector": when.detectors, "channel": when.channels, "tool": when.tools, "mode": when.modes}
    grades = {"at_least": when.at_least.name.lower(), "exactly": exactly}
    return {"name": rule.name, "when": {**matched, **grades}, "do": rule.do, "accuse": rule.accuse}


def _plain_override(override: Override) -> dict[str, Any]:
    matched = {"model": override.models, "route": override.routes, "tool": override.tools}
    rules = [_plain_rule(rule) for rule in override.rules]
    return {
        "name": override.name,
        **matched,
        "header": dict(override.headers),
        "by_header": override.by_header,
        "settings": dict(override.settings or {}),
        "rules": rules,
    }


def _toml(value: Any) -> str:
    return orjson.dumps(value).decode()


def _console() -> Console:
    """Lines are cut to fit a terminal, and left whole for everything else."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, soft_wrap=True)
