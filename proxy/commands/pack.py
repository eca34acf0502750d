"""`specguard bench pack`: the workloads of a coding agent in one decode mode after another, and what to switch on.

Must not: measure. Invariant: exit status 0 when something was measured; Ctrl-C reports what there is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from policies.modes import DecodeMode
from proxy import logging
from proxy.backends.plantable import PLANTABLE
from proxy.bench.pack.lanes import SERVED, Opening, builtin, elsewhere, fit_together
from proxy.bench.pack.page import page
from proxy.bench.pack.report import report
from proxy.bench.pack.repository import read_repository
from proxy.bench.pack.run import MINUTES, Measured, Plan, Progress, run
from proxy.bench.pack.tasks import Source, shipped
from proxy.bench.pack.workloads import QUICK, Size
from proxy.bench.report import Report, Table
from proxy.commands.layout import Wide
from proxy.configuration.config import Config, ConfigProblem
from proxy.configuration.sources import load

MODES = ("plain", "ngram/full", "mtp/full", "mtp+ngram/full", "mtp+ngram/k8v8", "mtp+ngram/k4v4")
ROUNDS = 3
PEER = "transformers on the same weights"
LENGTHS, QUICK_LENGTHS = (512, 1024, 2048, 3072), (512,)


def add_pack(subjects: Any, run_it: Any) -> None:
    """subjects: of `specguard bench`. run_it: called with the options."""
    pack = subjects.add_parser(
        "pack",
        help="seven workloads of a coding agent in each decode mode, and what to switch on",
        formatter_class=Wide,
        description="Cold prompt, patch, JSON tool call, long-context repair, Markdown rewrite, loop test and quality "
        "check, in one decode mode after another: speed, acceptance, valid calls, tests passed, loops. By default on "
        "the built-in engine, behind a server of its own for each mode; the modes take turns. The first round and the "
        "sweep take what they take, further rounds stay within --minutes. Ctrl-C reports what there is.",
    )
    target = pack.add_argument_group("what is measured")
    add_model(target)
    target.add_argument("--target", metavar="URL", help="an OpenAI-compatible server that runs already")
    target.add_argument("--key", default="", help="its key, or SPECGUARD_PACK_KEY in the environment")
    target.add_argument(
        "--served-model", default="", metavar="NAME", help="of its models this one (default: the first)"
    )
    pack.add_argument(
        "--modes",
        metavar="LIST",
        help=f"with commas between them (default: {','.join(MODES)}; with --target: {SERVED}, as it is)",
    )
    pack.add_argument("--repo", metavar="DIR", help="make the tasks from this repository's Python files")
    pack.add_argument("--context", metavar="LIST", help=f"tokens of the sweep (default: {','.join(map(str, LENGTHS))})")
    pack.add_argument("--repairs", type=int, default=20, metavar="N", help="tasks of the quality check (default: 20)")
    pack.add_argument(
        "--rounds",
        type=int,
        default=ROUNDS,
        metavar="N",
        help=f"run the workloads so often, for what chance leaves open (default: {ROUNDS}; one decides nothing)",
    )
    pack.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        metavar="N",
        help=f"begin no further round that would not end within so many (default: {MINUTES:g})",
    )
    pack.add_argument("--seed", type=int, default=0, metavar="N")
    pack.add_argument("--unguarded", action="store_true", help="the guard records what it finds and changes nothing")
    pack.add_argument("--quick", action="store_true", help="one or two of each, to see that everything runs")
    pack.add_argument("--no-peer", action="store_true", help="without transformers beside it, where it is installed")
    pack.add_argument("--json", action="store_true", help="machine-readable report")
    pack.add_argument("--html", metavar="FILE", help="and write one self-contained page")
    pack.set_defaults(run=run_it)


def add_model(group: Any) -> None:
    """What the built-in engine is and runs on."""
    group.add_argument("--builtin", action="store_true", help="the built-in engine (default)")
    group.add_argument("--config", type=Path, metavar="FILE", help="configuration of the server")
    group.add_argument("--model", metavar="DIR", help="model folder (default: as configured, else the embedded one)")
    group.add_argument("--device", help="cpu, cuda or mps")
    group.add_argument("--plant", metavar="FAULT", help=f"plant an engine fault: {', '.join(PLANTABLE)}")


def configured(options: argparse.Namespace) -> Config:
    """Raises ConfigProblem."""
    if options.plant and options.plant not in PLANTABLE:
        raise ConfigProblem(f"--plant: there is no fault {options.plant!r}; known faults: {', '.join(PLANTABLE)}")
    flags = {"model.path": options.model, "model.device": options.device, "plant": options.plant}
    return load(options.config, os.environ, flags)


Peers = Callable[[Config, Source, int], Table | str]
"""From a configuration, a source and a seed: a peer's figures, or why there are none."""


def measure(options: argparse.Namespace, peers: Peers) -> Report:
    """peers: asked after the run, where the built-in engine was measured. Raises ConfigProblem."""
    source = read_repository(Path(options.repo), options.seed) if options.repo else shipped()
    modes = _modes(options)
    quick = options.quick
    if options.html and not Path(options.html).absolute().parent.is_dir():
        raise ConfigProblem(f"--html: there is no folder for {options.html}; make it first, or name another file")
    if options.repairs < 1:
        raise ConfigProblem(f"--repairs: at least one, not {options.repairs}")
    if options.rounds < 1:
        raise ConfigProblem(f"--rounds: at least one, not {options.rounds}")
    if not options.minutes >= 0:  # nor is it NaN then
        raise ConfigProblem(f"--minutes: zero or more, not {options.minutes}")
    plan = Plan(
        rounds=1 if quick else options.rounds,
        minutes=options.minutes,
        together=_together(options, len(modes)),
        modes=modes,
        size=QUICK if quick else Size(repairs=options.repairs),
        lengths=_numbers(options.context) if options.context else QUICK_LENGTHS if quick else LENGTHS,
        each=1 if quick else 6,
        seed=options.seed,
    )
    logging.configure("error")
    found = follow(_opening(options), source, plan)
    if not found.modes or (found.stopped and not any(found.modes.values())):
        raise ConfigProblem("bench pack: stopped before anything was measured; let it run longer, or use --quick")
    if options.target or options.no_peer or quick or found.stopped:
        why = "the run was stopped" if found.stopped else "not asked for"
        return report(found, plan, source.name, (), {PEER: why})
    beside: Table | str
    try:
        beside = peers(configured(options), source, options.seed)
    except KeyboardInterrupt:  # all else is measured, and is reported
        beside = "it was stopped"
    except Exception as error:  # whatever befalls a peer costs the run nothing
        beside = f"{type(error).__name__}: {error}"
    if isinstance(beside, str):
        return report(found, plan, source.name, (), {PEER: beside})
    return report(found, plan, source.name, (beside,))


def follow(opening: Opening, source: Source, plan: Plan) -> Measured:
    """Runs, with progress on standard error."""
    with shown() as progress:
        return asyncio.run(run(opening, source, plan, progress))


@contextmanager
def shown() -> Iterator[Progress]:
    """On standard error, while it lasts."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield Shown(bars, lines=not console.is_terminal)


class Shown(Progress):
    """A bar for each workload in a terminal; elsewhere a line."""

    def __init__(self, bars: RichProgress, lines: bool) -> None:
        self._bars, self._lines = bars, lines
        self._task: Any = None

    def begins(self, what: str, steps: int) -> None:
        if self._lines:
            print(what, file=sys.stderr, flush=True)
        self._task = self._bars.add_task(what, total=steps)

    def step(self) -> None:
        self._bars.advance(self._task)


def write_page(made: Report, file: str) -> None:
    """Raises ConfigProblem."""
    try:
        Path(file).write_text(page(made.plain()), encoding="utf-8")
    except OSError as error:
        raise ConfigProblem(f"--html: {file} cannot be written ({error.strerror or error}); name another") from None


def _opening(options: argparse.Namespace) -> Opening:
    if options.target:
        for name in ("model", "plant", "unguarded", "builtin"):
            if getattr(options, name):
                raise ConfigProblem(f"--{name}: is for the built-in engine; leave it out with --target")
        key = options.key or os.environ.get("SPECGUARD_PACK_KEY", "")
        return elsewhere(options.target, key, options.served_model)
    return builtin(configured(options), options.unguarded)


def _together(options: argparse.Namespace, modes: int) -> bool:
    return bool(options.target) or fit_together(configured(options), modes)


def _modes(options: argparse.Namespace) -> tuple[str, ...]:
    if not options.modes:
        return (SERVED,) if options.target else MODES
    return parsed_modes(options.modes, (SERVED,) if options.target else ())


def parsed_modes(text: str, also: Sequence[str] = ()) -> tuple[str, ...]:
    """Raises ConfigProblem."""
    try:
        found = [name if name in also else str(DecodeMode.parse(name)) for name in map(str.strip, text.split(","))]
    except ValueError as error:
        raise ConfigProblem(f"--modes: {error}") from None
    return tuple(dict.fromkeys(found))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigProblem(f"--context: {text!r} is no list of numbers; write 512,1024") from None
    if min(found) < 1:
        raise ConfigProblem("--context: every length is at least one token")
    return found
