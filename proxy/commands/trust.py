"""`specguard trust`: which decode modes are out of service, and how to put them back by hand.

Must not: start an engine, or need a server that runs; one that does takes a reset over within a second.
Invariant: `show` changes nothing, also where the file cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from policies.breaker import Breaker, BreakerSettings, Key, Record
from proxy.configuration import sources as configuration
from proxy.configuration.config import Config, ConfigProblem
from proxy.trust.store import TrustFileProblem, beside, read, write

PIPED_WIDTH = 1000


def add(trust: argparse.ArgumentParser) -> None:
    """Its views."""
    views = trust.add_subparsers(required=True, metavar="VIEW")
    show = views.add_parser("show", help="the breakers: which mode, at which context, since when and why")
    show.add_argument("--json", action="store_true", help="machine-readable")
    show.set_defaults(run=_show)
    reset = views.add_parser("reset", help="forget what speaks against a mode (default: against any)")
    reset.add_argument("--key", default="", metavar="KEY", help="as shown, or its beginning: mtp+ngram/k4v4@16-32k")
    reset.set_defaults(run=_reset)
    for view in (show, reset):
        view.add_argument("--incidents", metavar="FILE", help="incident store whose server is meant (as configured)")
        view.add_argument("--config", type=Path, metavar="FILE", help="configuration of the server")


def _configured(options: argparse.Namespace) -> tuple[Config, Path]:
    config = configuration.load(options.config, os.environ, {"incidents.path": options.incidents})
    return config, Path(config.trust.path) if config.trust.path else beside(Path(config.incidents.path))


def _read(path: Path) -> dict[Key, Record]:
    try:
        return read(path)
    except TrustFileProblem as problem:
        raise ConfigProblem(
            f"{path}: cannot be read ({problem}); move it away, or start the server, which sets it aside"
        ) from None


def _show(options: argparse.Namespace) -> int:
    config, path = _configured(options)
    records, now = _read(path), time.time()
    limits = config.breaker
    settings = BreakerSettings(limits.trips, limits.window_s, limits.cool_down_s, limits.most_cool_down_s)
    breaker = Breaker(settings, records)
    rows = [(str(key), record, breaker.remaining(record, now)) for key, record in sorted(records.items())]
    if options.json:
        body = [
            {
                "key": key,
                "state": record.state,
                "accused": record.axis if record.trips else None,
                "trips": [trip.incident for trip in record.trips],
                "context": record.context,
                "changed": record.changed,
                "canary_in_s": max(0.0, wait) if record.state == "open" else None,
            }
            for key, record, wait in rows
        ]
        print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
        return 0
    if not rows:
        print("nothing speaks against any mode")
        return 0
    table = Table("key", "state", "accused", "trips", "last", "canary", box=None, pad_edge=False)
    for key, record, wait in rows:
        canary = "" if record.state != "open" else f"in {max(0.0, wait):.0f} s" if wait > 0 else "when idle"
        last = record.trips[-1].incident if record.trips else ""
        state = record.state.replace("_", " ")
        table.add_row(key, state, record.axis if record.trips else "", str(len(record.trips)), last, canary)
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, soft_wrap=True).print(table)
    return 0


def _reset(options: argparse.Namespace) -> int:
    _, path = _configured(options)
    breaker = Breaker(records=_read(path))
    gone = breaker.reset(options.key)
    if not gone:
        if options.key:
            raise ConfigProblem(f"--key: no key begins with {options.key!r}; `specguard trust show` lists them")
        print("nothing to reset")
        return 0
    try:
        write(path, breaker.records)
    except OSError as error:
        raise ConfigProblem(f"{path}: cannot be written ({error.strerror or error}); check who may") from None
    for key in gone:
        print(f"reset {key}")
    return 0
