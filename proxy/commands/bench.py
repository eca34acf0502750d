"""`specguard bench`: the benchmarks of all parts behind one form: `engine`, `detectors`, `guard`, `overhead`, `pack`.

Must not: import the engine at its top (the command must start without torch).
Invariant: exit status 0 when everything was measured, whether or not a bar was missed; a reason that nothing could be
measured is a ConfigProblem. Beside proxy.backends.builtin this is the only door to the engine: it runs the engine's own
benchmark, which a bare GPU machine runs without this package.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from proxy.bench.pack.tasks import Source
from proxy.bench.report import Report, Table, show
from proxy.commands.layout import Wide
from proxy.configuration.config import Config, ConfigProblem


def add(bench: argparse.ArgumentParser) -> None:
    """What it can measure."""
    from engine.bench.arguments import DESCRIPTION, add_arguments

    bench.description = (
        "Every benchmark prints tables and bars with their measured values. With --json it prints one "
        "document whose list `missed` names the bars that were not reached. Progress goes to standard error."
    )
    subjects = bench.add_subparsers(required=True, metavar="SUBJECT")
    engine = subjects.add_parser(
        "engine",
        help="drafters side by side, and transformers beside them",
        formatter_class=Wide,
        description=DESCRIPTION,
    )
    engine.add_argument("--json", action="store_true", help="machine-readable report")
    add_arguments(engine)
    engine.set_defaults(run=_engine)
    detectors = subjects.add_parser(
        "detectors",
        help="what the detectors cost, what they find, and what they leave alone",
        formatter_class=Wide,
        description="The streaming tool-call validator per byte, clone and compiled schema; the loop detectors per "
        "token, on made loops, on text that repeats by right, and at other thresholds. Processor time of one thread; "
        "needs neither torch nor a model.",
    )
    detectors.add_argument(
        "--corpus",
        action="store_true",
        help="count false alarms on this machine's Python sources and documents too (minutes; Ctrl-C reports what was "
        "read until then)",
    )
    detectors.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="DIR",
        help="and on the sources and documents in this folder (repeatable; implies --corpus)",
    )
    detectors.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="processes that read the corpus (default: 2)"
    )
    detectors.add_argument("--json", action="store_true", help="machine-readable report")
    detectors.set_defaults(run=_detectors)
    guard = subjects.add_parser(
        "guard",
        help="planted engine faults against the guard, false alarms, and what the guard costs",
        formatter_class=Wide,
        description="Plants each fault in the embedded model's engine and decodes 20 tool calls and 10 texts through "
        "the guard: who told it, what leaked, whether the client got what a sound engine says, who was blamed. Then "
        "200 tasks without a fault, and the guard's cost beside the engine alone. Some minutes.",
    )
    guard.add_argument(
        "--part",
        action="append",
        choices=("matrix", "calm", "cost"),
        help="only the planted faults, the tasks without one, or the cost (repeatable; default: all)",
    )
    guard.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME",
        help="only this fault (repeatable; implies --part matrix)",
    )
    guard.add_argument("--quick", action="store_true", help="two tasks for each fault, to see that everything runs")
    guard.add_argument("--json", action="store_true", help="machine-readable report")
    guard.set_defaults(run=_guard)
    overhead = subjects.add_parser(
        "overhead",
        help="what a response costs on its way through the server, and through LiteLLM's proxy",
        formatter_class=Wide,
        description="A scripted source streams text at a fixed pace; the same requests go to it directly, through this "
        "server and through LiteLLM's proxy, in turns: time to the first word and gaps between words, at 1, 16 and 64 "
        "streams, with bodies of 1 and 400 kB. All processes on this machine, no engine in any of them. Some minutes.",
    )
    overhead.add_argument(
        "--litellm",
        metavar="PATH",
        help="the command `litellm` of an environment with litellm[proxy]; its pins and ours do not go together "
        "(default: the one on PATH; without one its bars are not measured)",
    )
    overhead.add_argument(
        "--lanes",
        action="store_true",
        help="instead: in front of another server, added time, processor time, and how soon a healed call comes",
    )
    overhead.add_argument("--quick", action="store_true", help="short rounds and small bodies, to see that it runs")
    overhead.add_argument("--json", action="store_true", help="machine-readable report")
    overhead.set_defaults(run=_overhead)
    from proxy.commands.pack import add_pack

    add_pack(subjects, _pack)


def _engine(options: argparse.Namespace) -> int:
    from engine.bench.arguments import Options
    from engine.bench.run import run
    from engine.errors import EngineError

    try:
        report = run(Options.of(options), _tell)
    except EngineError as error:
        raise ConfigProblem(str(error)) from None
    show(Report.parse(report.plain()), console(), as_json=options.json)
    return 0


def _detectors(options: argparse.Namespace) -> int:
    from proxy.bench.detectors import Corpus, measure

    also = [Path(folder) for folder in options.also]
    for folder in also:
        if not folder.is_dir():
            raise ConfigProblem(f"--also: {folder} is no folder; name one that is there")
    if options.jobs < 1:
        raise ConfigProblem(f"--jobs: at least one process reads the corpus, not {options.jobs}")
    corpus = Corpus(also, options.jobs) if options.corpus or also else None
    show(measure(corpus, _tell), console(), as_json=options.json)
    return 0


def _guard(options: argparse.Namespace) -> int:
    from engine.bench.workloads import conversations
    from engine.engine import EMBEDDED
    from engine.faults import Fault
    from engine.tokenizer import Tokenizer
    from proxy import logging
    from proxy.bench.guard.overhead import Audited
    from proxy.bench.guard.run import PARTS, Setting, measure
    from proxy.configuration import config
    from proxy.server import app

    for name in options.fault:
        if name not in set(Fault):
            raise ConfigProblem(f"--fault: there is no fault {name!r}; known faults: {', '.join(Fault)}")
    logging.configure("error")
    tokenizer = Tokenizer.load(EMBEDDED)
    unwanted = [*tokenizer.eos_ids, *(tokenizer.token_id(tag) for tag in ("<tool_call>", "<|im_start|>"))]
    forgetful = config.Model(kept_prefixes=0)
    setting = Setting(
        build=lambda fault: app.build_backend(config.Config(plant=fault)),
        cold=lambda fault: cast(Audited, app.build_backend(config.Config(plant=fault, model=forgetful))),
        data=conversations(),
        banned=[token for token in unwanted if token is not None],
    )
    parts = options.part or (("matrix",) if options.fault else PARTS)
    report = asyncio.run(measure(setting, _tell, parts, options.fault, options.quick))
    show(report, console(), as_json=options.json)
    return 0


def _overhead(options: argparse.Namespace) -> int:
    from proxy.bench.overhead import lanes
    from proxy.bench.overhead.load import BrokenStream
    from proxy.bench.overhead.peer import found
    from proxy.bench.overhead.processes import NotStarted
    from proxy.bench.overhead.run import QUICK, Plan, measure

    if options.litellm and found(options.litellm) is None:
        raise ConfigProblem(f"--litellm: {options.litellm} is no program; name the command of its environment")
    if options.lanes:
        running = lanes.measure(lanes.QUICK if options.quick else lanes.LanePlan(), _tell)
    else:
        running = measure(QUICK if options.quick else Plan(), _tell, options.litellm)
    try:
        report = asyncio.run(running)
    except (NotStarted, BrokenStream) as problem:
        raise ConfigProblem(f"nothing was measured: {problem}") from None
    except ExceptionGroup as group:
        raise ConfigProblem(f"nothing was measured: {group.exceptions[0]}") from None
    show(report, console(), as_json=options.json)
    return 0


def _pack(options: argparse.Namespace) -> int:
    from proxy.commands.pack import measure, write_page

    made = measure(options, _transformers)
    show(made, console(), as_json=options.json)
    if options.html:  # last: what was measured is not lost to a full disk
        write_page(made, options.html)
    return 0


def _transformers(config: Config, source: Source, seed: int) -> Table | str:
    """`generate` of transformers on the same weights and prompts, or why there is none."""
    import torch

    from engine.bench.peer import Peer, PeerMissing
    from engine.bench.workloads import Prompt
    from engine.engine import EMBEDDED, Engine, EngineOptions
    from engine.sampler import SamplingParams
    from proxy.bench.pack.figures import per_second
    from proxy.bench.pack.report import interval
    from proxy.bench.pack.workloads import Ask, Size, workloads

    torch.set_num_threads(config.model.threads)
    folder = Path(config.model.path) if config.model.path else EMBEDDED
    engine = Engine(folder, EngineOptions(device=config.model.device, dtype=config.model.dtype))
    try:
        peer = Peer(folder, config.model.device, engine.model.dtype)
    except PeerMissing as reason:
        return str(reason)
    rows = []
    for workload in workloads(source, Size(few=3), seed):
        if workload.key in ("cold", "patch"):
            timed = []
            for step in workload.steps:
                asked = [_parsed(message) for message in step.messages]
                tools = [dict(tool) for tool in step.tools] if isinstance(step, Ask) else []
                tokens = tuple(engine.tokenizer.encode(engine.render(asked, tools)))
                _, seconds, made = peer.generate(Prompt(step.name, tokens, SamplingParams(), 64), 64)
                timed.append((made, seconds))
            rate = per_second(timed)
            rows.append((peer.name, workload.title, interval(asdict(rate)) if rate else None))
    return Table("Peers on the same weights and prompts", ("peer", "workload", "decode t/s"), tuple(rows))


def _parsed(message: Mapping[str, Any]) -> dict[str, Any]:
    """As templates want it: arguments of calls as objects."""
    calls = [
        {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    return dict(message) | ({"tool_calls": calls} if calls else {})


def _tell(line: str) -> None:
    """Progress."""
    print(line, file=sys.stderr, flush=True)


def console() -> Console:
    """Lines are cut to fit a terminal, and left whole for everything else."""
    return Console(width=None if sys.stdout.isatty() else 1000, soft_wrap=True)
