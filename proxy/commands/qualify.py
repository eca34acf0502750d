"""`specguard qualify`: writes which decode modes are trusted up to which context; `--show` explains such a file.

Must not: decide what is trusted. Invariant: the file is replaced whole or not at all, and what is written can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from policies.qualification import Qualification, QualificationProblem, parse
from proxy import logging
from proxy.bench.pack.lanes import builtin
from proxy.bench.pack.tasks import shipped
from proxy.commands.pack import MODES, add_model, configured, parsed_modes, shown
from proxy.configuration.config import ConfigProblem
from proxy.trust.qualify import PLAIN, Findings, qualify

FILE = "specguard-qualification.json"
PIPED_WIDTH = 1000


def add(command: argparse.ArgumentParser) -> None:
    """Its arguments."""
    command.description = (
        "Asks canaries and lets repairs be made behind more and more context, in each decode mode and in "
        "plain decoding beside it, and writes what is trusted to a file for `trust.qualification`. Some minutes."
    )
    add_model(command)
    others = ",".join(mode for mode in MODES if mode != PLAIN)
    command.add_argument("--modes", metavar="LIST", help=f"with commas between them (default: {others})")
    command.add_argument("--repairs", type=int, default=12, metavar="N", help="in each bucket of lengths (default: 12)")
    command.add_argument("--out", default=FILE, metavar="FILE", help=f"where to write (default: {FILE})")
    command.add_argument("--show", nargs="?", const=FILE, metavar="FILE", help=f"explain a file (default: {FILE})")
    command.add_argument("--json", action="store_true", help="print the file's content")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.show is not None:
        _print(_read(Path(options.show)), options.json, options.show)
        return 0
    if options.repairs < 1:
        raise ConfigProblem(f"--repairs: at least one, not {options.repairs}")
    if not Path(options.out).absolute().parent.is_dir():
        raise ConfigProblem(f"--out: there is no folder for {options.out}; make it first, or name another file")
    modes = [mode for mode in (parsed_modes(options.modes) if options.modes else MODES) if mode != PLAIN]
    if not modes:
        raise ConfigProblem("--modes: plain decoding is what the others are held against; name another mode")
    config = configured(options)
    logging.configure("error")
    with shown() as progress:
        found = asyncio.run(qualify(builtin(config), shipped(), modes, options.repairs, progress, Findings()))
    if found.stopped and not found.modes:
        raise ConfigProblem("qualify: stopped before any mode was judged; nothing was written")
    made = found.file()
    _write(Path(options.out), made)
    for mode, why in found.absent.items():
        print(f"{mode} is not in the file: {why}", file=sys.stderr)
    if found.stopped:
        print("stopped: modes that are not in the file start in plain decoding", file=sys.stderr)
    _print(made, options.json, options.out)
    return 0


def _write(path: Path, made: Qualification) -> None:
    text = made.model_dump_json(indent=1)
    parse(text)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigProblem(f"--out: {path} cannot be written ({error.strerror or error}); name another") from None


def _read(path: Path) -> Qualification:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ConfigProblem(f"--show: {path} cannot be read ({error.strerror or error}); name another") from None
    except QualificationProblem as problem:
        raise ConfigProblem(f"--show: {path}: {problem}") from None


def _print(made: Qualification, as_json: bool, file: str) -> None:
    if as_json:
        print(made.model_dump_json(indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, soft_wrap=True, highlight=False)
    about = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    console.print(f"{made.model} ({made.fingerprint}), {made.tool_format} calls, {made.created}, {about}", markup=False)
    table = Table("mode", "trusted up to", "why no further", box=None, pad_edge=False)
    for row in made.modes:
        ceiling = made.ceiling(row.mode)
        reach = f"{ceiling.tokens} tokens" if ceiling.tokens else "nowhere"
        whole = all(bucket.trusted for bucket in row.buckets)
        table.add_row(str(row.mode), reach, "that is all it was asked" if whole else escape(ceiling.why))
    console.print(table)
    console.print(
        f"Beyond that, and in any mode that is not listed, a response starts in plain decoding. To use it: "
        f'trust.qualification = "{file}". It is void for other model files and another tool format.',
        markup=False,
    )
