"""`specguard replay ID`: runs a captured response again along draft, codec, prefix cache and filter, or asks the lanes
again, and says who is to blame.

Must not: serve, or import torch before there is something to run.
Invariant: the store is written only with `--store`; exit status 0 with a verdict, 1 if the runs could not be finished,
2 (a ConfigProblem) if nothing can be run.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
from rich.console import Console

from policies.axes import AXES, Axis
from proxy import logging
from proxy.backends.base import Backend, Replayer
from proxy.backends.errors import BackendError
from proxy.commands.settings import load
from proxy.configuration.config import Config, ConfigProblem
from proxy.incidents import IncidentStore, Record
from proxy.replays.automatic import AutomaticSettings, as_judgement, tripped_of
from proxy.replays.capture import Capture
from proxy.replays.lane_report import lane_data, lane_page
from proxy.replays.lane_runs import Reasker, investigate_lanes, limits_of, why_not
from proxy.replays.report import other_model, replay_data, replay_page
from proxy.replays.runs import Judged, Limits, investigate

TOKENS = 8192
"""Here somebody waits for the answer and nobody else for the device."""
_PIPED_WIDTH = 1000
Load = Callable[[argparse.Namespace], Config]


def add(replay: argparse.ArgumentParser) -> None:
    """Its arguments."""
    replay.description = (
        "Runs the response again as it was and with one thing changed at a time: drafts, KV codec, prefix "
        "cache, filter. In a sound engine the same seed gives the same text, so the change that cures names the layer. "
        "Of lanes, the servers are asked again: as it was, with a prefix read anew, nothing demanded, the plain lane. "
        "Needs an incident that was recorded with `incidents.capture = true`. Stops as soon as there is a verdict."
    )
    replay.add_argument("id", metavar="ID", help="as listed by `specguard incidents list`, or its beginning")
    replay.add_argument("--config", type=Path, metavar="FILE", help="configuration that names store and model")
    replay.add_argument("--incidents", metavar="FILE", help="store to read (default: as configured)")
    replay.add_argument("--model", metavar="DIR", help="model folder (default: as configured)")
    replay.add_argument("--plant", metavar="FAULT", help="plant an engine fault, as the server had")
    replay.add_argument(
        "--axes", type=_axes, default=(), metavar="LIST", help=f"run all of these: {','.join(AXES)} (default: few)"
    )
    replay.add_argument("--tokens", type=int, default=TOKENS, help=f"most tokens of all runs (default {TOKENS})")
    replay.add_argument("--json", action="store_true", help="machine-readable")
    replay.add_argument("--store", action="store_true", help="add the verdict to the incident's record")
    replay.set_defaults(run=lambda options: run(options, load(options)))


def run(options: argparse.Namespace, config: Config, build: Callable[[Config], Backend] | None = None) -> int:
    """Returns the exit status. build: of the backend, None = as configured. Raises ConfigProblem."""
    if options.tokens < 64:
        raise ConfigProblem("--tokens: must be at least 64")
    store = IncidentStore(config.incidents.path)
    record = find(store, options.id)
    lanes = bool((record.opened.get("capabilities") or {}).get("lanes"))
    capture = captured(record, lanes)
    if lanes and not config.lanes.configured:
        raise ConfigProblem(
            f"{record.id} is of a pool of lanes; name the configuration that has them with --config FILE"
        )
    if not lanes and config.lanes.configured:
        raise ConfigProblem(f"{record.id} is of the built-in engine, and the configuration names lanes; leave them out")
    if lanes and options.axes:
        raise ConfigProblem(
            f"--axes: {record.id} is of lanes, of which drafts and codec cannot be changed; leave it out"
        )
    from proxy.server.app import build_backend

    logging.configure(config.log.level)
    try:
        backend = (build or build_backend)(config)
        settings = AutomaticSettings(detectors=config.detectors)
        found, fingerprint, cannot = asyncio.run(_investigate(backend, record, capture, options, settings, config))
    except BackendError as error:
        raise ConfigProblem(f"{record.id} cannot be run again: {error}") from None
    if options.json:
        data = lane_data(record, found, cannot, fingerprint) if lanes else replay_data(record, found, fingerprint)
        print(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
    else:
        page = lane_page(record, capture, found, cannot) if lanes else replay_page(record, capture, found, fingerprint)
        width = None if sys.stdout.isatty() else _PIPED_WIDTH
        Console(width=width, soft_wrap=not sys.stdout.isatty(), highlight=False, emoji=False).print(page)
    if options.store and other_model(record, fingerprint):
        print("specguard: not stored: another model says nothing about the one that served", file=sys.stderr)
    elif options.store:
        closed = record.closed or {}
        told = str(closed.get("culprit", "unknown")), str(closed.get("certainty", "none"))
        store.judged(as_judgement(record.id, found, *told))
        store.close()
        if record.judged is not None:
            print("specguard: the record has a verdict already, which stays", file=sys.stderr)
    return 0 if found.verdict.finished else 1


def find(store: IncidentStore, incident: str) -> Record:
    """The one incident whose id begins so. Raises ConfigProblem."""
    hint = "`specguard incidents list` shows which there are"
    if not store.path.is_file():
        raise ConfigProblem(f"{store.path}: there is no incident store; name another with --incidents FILE")
    try:
        found = store.find(incident)
    except (sqlite3.Error, ValueError) as error:
        raise ConfigProblem(f"{store.path}: cannot be read as an incident store ({error})") from None
    exact = [record for record in found if record.id == incident]
    if not found:
        raise ConfigProblem(f"there is no incident {incident}; {hint}")
    if len(found) > 1 and not exact:
        raise ConfigProblem(f"{len(found)} incidents begin with {incident!r}; write more of the id ({hint})")
    return (exact or list(found))[0]


def captured(record: Record, lanes: bool = False) -> Capture:
    """What it takes to run it again. lanes: it is of servers of others, which are given messages and need no token ids.
    Raises ConfigProblem that says why that is not there."""
    detector = str(record.opened.get("detector", ""))
    if detector.startswith("stall."):
        raise ConfigProblem(f"{record.id}: a step that did not come cannot be run again")
    if lanes and (why := why_not(detector)):
        raise ConfigProblem(f"{record.id} ({detector}) cannot be asked again: {why}")
    if record.capture is None:
        raise ConfigProblem(
            f"{record.id} was recorded without a capture; set incidents.capture = true in the server's configuration, "
            "and what trips from then on can be run again"
        )
    try:
        capture = Capture.parse(record.capture)
    except (KeyError, TypeError, ValueError):
        raise ConfigProblem(
            f"{record.id} was captured by an older version, which kept the prompt alone; it cannot be run again"
        ) from None
    if lanes and capture.redacted:
        raise ConfigProblem(
            f"{record.id}: secrets were taken out of its capture ({', '.join(capture.redacted)}), so the messages are "
            "not those that were sent; it cannot be asked again"
        )
    if not lanes and not capture.is_exact:
        what = ", ".join(capture.redacted) or "the token ids"
        raise ConfigProblem(
            f"{record.id}: secrets were taken out of its capture ({what}), and the token ids with them; "
            "it cannot be run again"
        )
    return capture


async def _investigate(
    backend: Backend,
    record: Record,
    capture: Capture,
    options: argparse.Namespace,
    settings: AutomaticSettings,
    config: Config,
) -> tuple[Judged, str, Sequence[str]]:
    """The verdict, the fingerprint of the model that was loaded, and of lanes what could not be asked again."""
    console = Console(stderr=True, highlight=False)
    asks = config.lanes.configured
    with console.status("asking the lanes ..." if asks else "loading the model and checking its exactness ..."):
        await backend.start()
    try:
        opened, limits = record.opened, Limits(options.tokens, float("inf"))
        tripped = tripped_of(str(opened["detector"]), str(opened["grade"]), int(opened["position"]), backend, settings)
        if isinstance(backend, Reasker):
            cannot = limits_of(backend, capture, config.lanes.cache_salt, bool(config.server.keys))
            with console.status("asking for the response again ..."):
                found = await investigate_lanes(backend, tripped, capture, limits)
            return found, backend.info.fingerprint, cannot
        if not isinstance(backend, Replayer):
            raise ConfigProblem("the configured backend cannot run a response again; the built-in engine and lanes can")
        with console.status("running the response again ..."):
            found = await investigate(backend, tripped, capture, limits, options.axes)
        return found, backend.info.fingerprint, ()
    finally:
        await backend.stop()


def _axes(text: str) -> tuple[Axis, ...]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in AXES:
            raise argparse.ArgumentTypeError(f"unknown axis {name!r}: use some of {', '.join(AXES)}")
    return tuple(axis for axis in AXES if axis in names)
