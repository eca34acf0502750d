"""Puts the parts of `bench engine` together: what is asked for, in one process, into one report.

Must not: decide what counts as good (the bars are declared where they are measured).
Invariant: without --shape, every workload that was not run is named with its bars under `unmeasured`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch

from engine.bench import compare as comparing
from engine.bench import reuse as reusing
from engine.bench.arguments import Options
from engine.bench.kv.report import measure_kv
from engine.bench.peer import Peer, PeerMissing
from engine.bench.report import Report, Table
from engine.bench.shape import measure_shape
from engine.bench.workloads import TITLES, prompts
from engine.dtype import AUTO
from engine.engine import EMBEDDED, Engine, EngineOptions
from engine.errors import ConfigError
from engine.faults import Fault

ROUNDS, QUICK_ROUNDS = 5, 1


def run(options: Options, progress: Callable[[str], None], fault: Fault | None = None) -> Report:
    """Measures what `options` ask for. Raises EngineError.

    fault: planted in the engine, to see that the bars notice it.
    """
    if options.layers and not options.shape:
        raise ConfigError("--layers: only with --shape; a model's folder says how deep it is")
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        if options.kv:
            return measure_kv(options, _settings(options), progress)
        return (
            measure_shape(options, _settings(options), progress) if options.shape else _engine(options, progress, fault)
        )
    finally:
        torch.set_num_threads(before)


def _engine(options: Options, progress: Callable[[str], None], fault: Fault | None) -> Report:
    folder = options.model or EMBEDDED
    dtype = options.dtype or AUTO
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    engine = Engine(folder, EngineOptions(device=options.device, dtype=dtype, fault=fault))
    exactness = engine.self_test().exactness
    wanted = options.only or (*TITLES, "reuse")
    why_not: dict[str, str] = {name: "not among --only" for name in (*TITLES, "reuse") if name not in wanted}
    peer = None
    if options.peer:
        try:
            peer = Peer(folder, options.device, engine.model.dtype)
        except PeerMissing as missing:
            why_not[comparing.PEER] = str(missing)
    else:
        why_not[comparing.PEER] = "--no-peer"
    results = {
        workload: comparing.compare(engine, workload, prompts(engine, workload, options.quick), rounds, peer, progress)
        for workload in TITLES
        if workload in wanted
    }
    bars, unmeasured = comparing.bars(results, why_not)
    tables = [comparing.table(result) for result in results.values()]
    data: dict[str, Any] = {workload: comparing.figures(result) for workload, result in results.items()}
    if peer is not None:
        lookup = peer.prompt_lookup(prompts(engine, "agent", True)[0], 8)
        data["peer"] = {"name": peer.name, "prompt_lookup": lookup}
        tables.append(Table("Peer", ("", ""), (("name", peer.name), ("prompt lookup", lookup))))
    if "reuse" in wanted:
        result = reusing.reuse(engine, rounds, progress)
        table, bar = reusing.report(result)
        tables.append(table)
        bars.append(bar)
        data["reuse"] = {"cold_s": result.cold, "warm_s": result.warm, "prompt": result.prompt, "cached": result.cached}
    else:
        unmeasured[reusing.NAME] = why_not["reuse"]
    settings = _settings(options) | {
        "model": f"{folder.resolve().name} ({engine.fingerprint})",
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "rounds": rounds,
        "exactness": exactness,
    }
    return Report("engine", settings, tuple(tables), tuple(bars), unmeasured, data)


def _settings(options: Options) -> dict[str, Any]:
    on_gpu = options.device.startswith("cuda") and torch.cuda.is_available()
    device = torch.cuda.get_device_name(torch.device(options.device)) if on_gpu else platform.machine()
    return {
        "device": f"{options.device} ({device})",
        "threads": options.threads,
        "torch": torch.__version__,
        "quick": options.quick,
    }
