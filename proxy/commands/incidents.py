"""`specguard incidents`: list, show, stats, export.

Must not: print a prompt or what was said, except of one incident that was captured.
Invariant: JSON goes to standard output, one document or one line each; remarks go to standard error.
"""

from __future__ import annotations

import argparse
import json
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from rich.console import Console

from policies.blame import Culprit
from proxy.commands.layout import Wide
from proxy.commands.settings import load
from proxy.configuration.config import Config, ConfigProblem
from proxy.incidents import IncidentStore, StoreProblem
from proxy.incidents.query import Selection
from proxy.incidents.report import incident_page, incident_table, statistics_page
from proxy.incidents.statistics import statistics

PIPED_WIDTH = 1000
"""Columns of a table that no terminal limits."""
POLL_S = 0.5
MOST = (1 << 63) - 1
"""The largest number that SQLite knows."""
_AGE = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

Load = Callable[[argparse.Namespace], Config]


def add(incidents: argparse.ArgumentParser) -> None:
    """Its views."""
    views = incidents.add_subparsers(required=True, metavar="VIEW")
    listing = views.add_parser("list", help="the newest incidents, one a line", formatter_class=Wide)
    listing.add_argument("--limit", type=int, default=20, help="how many (default 20)")
    listing.add_argument("--detector", default="", metavar="GLOB", help="only of such detectors, e.g. 'loop.*'")
    listing.add_argument(
        "--culprit", default="", choices=[str(culprit) for culprit in Culprit], metavar="C", help="only of this culprit"
    )
    listing.add_argument("--session", default="", metavar="S", help="only of this session")
    show = views.add_parser("show", help="everything about one incident", formatter_class=Wide)
    show.add_argument("id", metavar="ID", help="as listed, or its beginning if that is unique")
    show.add_argument("--capture", action="store_true", help="print what was captured with it, as JSON, instead")
    stats = views.add_parser("stats", help="how many, of which kind, and what they cost", formatter_class=Wide)
    export = views.add_parser(
        "export",
        help="all records as CloudEvents, one JSON line each, oldest first",
        formatter_class=Wide,
        description="One event for each record: opened, closed, judged, died. An event's id never changes, and its "
        "`sequence` says where to go on with --after. Prompts, arguments and tokens are never exported.",
    )
    export.add_argument("--follow", action="store_true", help="wait for more until interrupted")
    export.add_argument("--after", type=int, default=0, metavar="N", help="go on after the event of this sequence")
    for view in (listing, stats, export):
        view.add_argument(
            "--since", default="", metavar="WHEN", help="opened since then: 30m, 12h, 7d, or a date as 2026-05-31 (UTC)"
        )
    for view, run in ((listing, _list), (show, _show), (stats, _stats), (export, _export)):
        if view is not export:
            view.add_argument("--json", action="store_true", help="machine-readable")
        view.add_argument("--incidents", metavar="FILE", help="store to read (default: as configured)")
        view.add_argument("--config", type=Path, metavar="FILE", help="configuration that names the store")
        view.set_defaults(run=lambda options, run=run: _run(run, options))


def since_time(text: str, now: datetime) -> str:
    """A time as it stands in records, from an age (`7d`) or a date; "" of "". Raises ConfigProblem."""
    if not text:
        return ""
    try:
        age = _AGE.fullmatch(text)
        moment = now - timedelta(**{_UNITS[age[2]]: int(age[1])}) if age else datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # as all times that are printed
        return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        known = "an age as 30m, 12h, 7d, or a date as 2026-05-31 or 2026-05-31T12:00"
        raise ConfigProblem(f"--since: {text!r} is no time; write {known}") from None


def _run(view: Callable[[argparse.Namespace, IncidentStore], None], options: argparse.Namespace) -> int:
    with _store(load(options)) as store:
        view(options, store)
    return 0


@contextmanager
def _store(config: Config) -> Iterator[IncidentStore]:
    path = Path(config.incidents.path)
    other = "name another with --incidents FILE"
    if not path.is_file():
        raise ConfigProblem(f"{path}: there is no incident store (a server makes it with its first incident); {other}")
    try:
        yield IncidentStore(path)
    except sqlite3.Error as error:
        raise ConfigProblem(f"{path}: cannot be read as an incident store ({error}); {other}") from None
    except StoreProblem as problem:
        raise ConfigProblem(f"{problem}; {other}") from None


def _list(options: argparse.Namespace, store: IncidentStore) -> None:
    if not 1 <= options.limit <= MOST:
        raise ConfigProblem(f"--limit: must be from 1 to {MOST}")
    since = since_time(options.since, datetime.now(UTC))
    selection = Selection("", since, options.detector, options.culprit, options.session)
    records = list(store.iterate(selection, options.limit))
    _tell_losses(store)
    if options.json:
        for record in records:
            print(orjson.dumps(record.cloud_event()).decode())
    elif not records:
        print("no incidents")
    else:
        _console().print(incident_table(records))


def _show(options: argparse.Namespace, store: IncidentStore) -> None:
    found = store.find(options.id, 1000)
    hint = "`specguard incidents list` shows which there are"
    if not found:
        raise ConfigProblem(f"there is no incident {options.id}; {hint}")
    if len(found) > 1:
        raise ConfigProblem(f"{len(found)} incidents begin with {options.id!r}; write more of the id ({hint})")
    (record,) = found
    if options.capture:
        if record.capture is None:
            raise ConfigProblem(f"nothing was captured with {record.id}; that needs incidents.capture = true")
        text = json.dumps(record.capture, ensure_ascii=False, indent=2)
        print(text.encode(errors="backslashreplace").decode())  # arguments may hold half a pair of surrogates
    elif options.json:
        print(orjson.dumps(record.cloud_event(), option=orjson.OPT_INDENT_2).decode())
    else:
        _console().print(incident_page(record))


def _stats(options: argparse.Namespace, store: IncidentStore) -> None:
    since = since_time(options.since, datetime.now(UTC))
    counted = statistics(store.iterate(Selection(since=since)))
    _tell_losses(store)
    if options.json:
        print(orjson.dumps(counted.plain() | {"not_written": store.losses()[0]}, option=orjson.OPT_INDENT_2).decode())
    else:
        _console().print(statistics_page(counted))


def _export(options: argparse.Namespace, store: IncidentStore) -> None:
    if not 0 <= options.after <= MOST:
        raise ConfigProblem(f"--after: must be from 0 to {MOST}")
    after, since = options.after, since_time(options.since, datetime.now(UTC))
    _tell_losses(store)
    while True:
        for number, event in store.events(after, since):
            print(orjson.dumps(event).decode())
            after = number
        sys.stdout.flush()
        if not options.follow:
            return
        time.sleep(POLL_S)


def _tell_losses(store: IncidentStore) -> None:
    lost, last = store.losses()
    if lost:
        print(f"specguard: {lost} record(s) could not be written, the last before {last}", file=sys.stderr)


def _console() -> Console:
    """Lines are cut to fit a terminal, and left whole for everything else."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, soft_wrap=True)
