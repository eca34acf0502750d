"""Puts the cache benchmark together: on a model folder, or with random weights at a real model's size.

Must not: decide what counts as good (the bars are declared where they are measured).
Invariant: a bar that could not be measured is named with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from engine.bench.arguments import Options
from engine.bench.kv.calls import CONTEXTS as CALL_CONTEXTS
from engine.bench.kv.calls import PROMPTS, SEEDS, Calls, asked_edits, calls_table, measure_calls
from engine.bench.kv.contexts import random_model, shaped_model, stretched_model
from engine.bench.kv.kernels import kernel_bars, kernel_table
from engine.bench.kv.quality import Divergence, divergence_table, measure_divergence, random_text
from engine.bench.kv.speed import HEAD_DIM, Speed, measure_speed, size_bar, speed_bars, speed_table
from engine.bench.kv.switch import Switches, measure_switches, switch_bars, switch_table
from engine.bench.report import Bar, Report, Table
from engine.bench.shape import check_memory, copy_bandwidth, shape_config, weigh
from engine.bench.workloads import encode, long_conversation
from engine.codecs.spec import CODECS, SPECS
from engine.config import ModelConfig
from engine.dtype import parse_dtype
from engine.engine import EMBEDDED, Engine, EngineOptions, check_device
from engine.errors import ConfigError
from engine.kernels.check import check_kernels
from engine.memory import cache_bytes
from engine.model import Model

CONTEXTS, QUICK_CONTEXTS = (1024, 4096, 16_384), (512, 1024)
SHAPE_CONTEXTS = (8192, 32_768, 131_072)
ROUNDS, QUICK_ROUNDS = 15, 3
SIZED_AT = 16_384
"""Tokens for which the size bar is set, whatever else is measured."""
TRITON = "equality of the Triton path with the reference"
NO_TRITON = "codes are read by torch operators on a CPU"


def measure_kv(options: Options, settings: dict[str, Any], progress: Callable[[str], None]) -> Report:
    """Raises ConfigError."""
    torch.manual_seed(0)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    contexts = QUICK_CONTEXTS if options.quick else SHAPE_CONTEXTS if options.shape else CONTEXTS
    model = _model(options, contexts[-1])
    copy = copy_bandwidth(model.device, 1 << (24 if options.quick else 28))
    tables: list[Table] = []
    unmeasured: dict[str, str] = {}
    progress("kernels against operators")
    checks = check_kernels(model, list(SPECS)) if model.kernels.on else []
    if checks:
        tables.append(kernel_table(checks))
    else:
        unmeasured[TRITON] = model.kernels.why or NO_TRITON
    speeds: list[Speed] = []
    for context in contexts:
        progress(f"decode steps at {context} tokens")
        speeds += measure_speed(model, context, rounds)
    tables.append(speed_table(speeds, copy))
    bars = (kernel_bars(checks) if checks else []) + speed_bars(speeds) + _size_bars(options, unmeasured)
    switches: list[Switches] = []
    for context in contexts:
        progress(f"the way back at {context} tokens")
        switches.append(measure_switches(model, context))
    tables.append(switch_table(switches))
    bars += switch_bars(switches)
    quality, calls = _quality(options, model, contexts, progress) if not options.shape else ([], [])
    if quality:
        tables.append(divergence_table(quality))
    if calls:
        tables.append(calls_table(calls))
    settings = settings | {
        "model": options.shape or (options.model or EMBEDDED).resolve().name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "rounds": rounds,
        "codes read by": "triton" if model.kernels.on else "torch operators",
    }
    data = {
        "kernels": [asdict(check) for check in checks],
        "speed": [asdict(speed) for speed in speeds],
        "switch": [asdict(switch) for switch in switches],
        "divergence": [asdict(found) for found in quality],
        "calls": [asdict(found) for found in calls],
        "copy_bytes_per_second": copy,
    }
    return Report("engine --kv", settings, tuple(tables), tuple(bars), unmeasured, data)


def _model(options: Options, longest: int) -> Model:
    check_device(options.device)
    if options.shape:
        config = shape_config(options.shape, options.layers)
        dtype = parse_dtype(options.dtype or "bfloat16", options.device, config, rows=8)
        weights = weigh(config, dtype)
        # all codecs hold the context at once while steps are timed
        caches = sum(cache_bytes(config, codec, longest, dtype, window=128) for codec in CODECS)
        check_memory(sum(weights.values()) + caches, config, torch.device(options.device))
        return shaped_model(options.shape, options.layers, longest, options.device, dtype)
    folder = options.model or EMBEDDED
    dtype = parse_dtype(options.dtype or "float32", options.device, ModelConfig.load(folder), rows=8)
    return stretched_model(folder, longest, options.device, dtype)


def _size_bars(options: Options, unmeasured: dict[str, str]) -> list[Bar]:
    folder = options.model or EMBEDDED
    if options.shape or ModelConfig.load(folder).head_dim != HEAD_DIM:
        unmeasured["size of the k4v4 cache"] = f"a bar for models with head_dim {HEAD_DIM}"
        return []
    return [size_bar(stretched_model(folder, SIZED_AT, options.device, torch.bfloat16), SIZED_AT)]


def _quality(
    options: Options, model: Model, contexts: tuple[int, ...], progress: Callable[[str], None]
) -> tuple[list[Divergence], list[Calls]]:
    """The model itself on its own conversations where they are long enough and it was made for such contexts, and one
    of the same size with random weights."""
    folder = options.model or EMBEDDED
    found: list[Divergence] = []
    own = ModelConfig.load(folder).max_context
    engine = None
    if options.model is None:
        engine = Engine(folder, EngineOptions(device=options.device))
    for context in contexts:
        progress(f"divergence at {context} tokens")
        if engine is not None:
            ids = list(_conversation(engine, own))
            ids = (ids * (context // len(ids) + 1))[:context]
        else:
            ids = random_text(model, context)
        name = "embedded" if engine is not None else folder.resolve().name
        found += measure_divergence(model, f"{name}{'' if context <= own else ', beyond its window'}", ids)
        chance = random_model(model.config, context, options.device, model.dtype)
        found += measure_divergence(chance, "random weights", random_text(chance, context))
    if engine is None:
        return found, []
    count, seeds = (1, ()) if options.quick else (PROMPTS, SEEDS)
    asked = [
        a for context in CALL_CONTEXTS[: 1 if options.quick else None] for a in asked_edits(engine, context, count)
    ]
    progress(f"{len(asked) * (1 + len(seeds))} tool calls with every codec")
    return found, measure_calls(engine, asked, seeds)


def _conversation(engine: Engine, room: int) -> tuple[int, ...]:
    try:
        return long_conversation(engine, room - 1)[1]
    except ConfigError:
        return encode(engine, [{"role": "user", "content": "hello"}])
