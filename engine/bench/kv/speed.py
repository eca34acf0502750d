"""What a decode step costs with every codec, how fast attention reads its cache, and how large the cache is.

Must not: time a codec apart from the others.
Invariant: ratios are medians over rounds in which each codec has one step; bytes are those of live tensors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from engine.attention import attend
from engine.bench.kv.contexts import drawn_states, live_cache_bytes
from engine.bench.report import Bar, Table
from engine.codecs.spec import CODECS, FULL
from engine.model import Model
from engine.state import SequenceState

BARS = {"k8v8": 1.15, "k4v4": 1.5}
SMALLER = 3.5
HEAD_DIM = 64
"""Of the size bar: scales weigh more at narrower heads."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one codec at one context. step_ms: median; ratio: median over rounds of step / full step; bytes: of the
    caches; bf16_bytes: of full ones in bf16 without room to grow; read_per_s: bytes that one layer's attention reads in
    a second."""

    codec: str
    context: int
    step_ms: float
    ratio: float
    bytes: int
    bf16_bytes: int
    read_per_s: float


def measure_speed(model: Model, context: int, rounds: int, codecs: Sequence[str] = CODECS) -> list[Speed]:
    """`context`: a multiple of prefill_rows."""
    states = drawn_states(model, context, codecs)
    times: dict[str, list[float]] = {codec: [] for codec in codecs}
    for number in range(rounds + 1):
        for codec, state in states.items():
            taken = _timed(model, lambda state=state: model.decode(state, [1]))  # type: ignore[misc]
            if number:  # the first one makes the scratch
                times[codec].append(taken)
    found = []
    exact = _bf16_bytes(model, context)
    for codec, state in states.items():
        ratio = median(ours / theirs for ours, theirs in zip(times[codec], times[FULL], strict=True))
        found.append(
            Speed(
                codec,
                context,
                median(times[codec]) * 1e3,
                ratio,
                live_cache_bytes(state),
                exact,
                _rate(model, state, rounds),
            )
        )
    return found


def speed_table(found: Sequence[Speed], copy: float) -> Table:
    """copy: bytes/s of a copy on this device."""
    rows = tuple(
        (
            s.context,
            s.codec,
            s.step_ms,
            s.ratio,
            s.bytes / 1e6,
            s.bf16_bytes / s.bytes,
            s.read_per_s / 1e9,
            s.read_per_s / copy,
        )
        for s in found
    )
    columns = ("context", "codec", "step ms", "x full", "cache MB", "x smaller than bf16", "attention GB/s", "of copy")
    note = (
        f"copy bandwidth {copy / 1e9:.1f} GB/s (read + write); sizes hold codes, scales, raw rows and scratch\n"
        "k3v3 has no bar: torch operators unpack three bits in several passes, where other codes take one"
    )
    return Table("Decode step by codec", columns, rows, note)


def speed_bars(found: Sequence[Speed]) -> list[Bar]:
    """At the longest context."""
    longest = max(speed.context for speed in found)
    ratios = {speed.codec: speed.ratio for speed in found if speed.context == longest}
    return [
        Bar.at_most(f"decode step at {longest} tokens: {codec} / full", limit, ratios[codec], "x")
        for codec, limit in BARS.items()
        if codec in ratios
    ]


def size_bar(model: Model, context: int) -> Bar:
    """Of a bf16 model, the step's scratch made. Raises ValueError unless its heads have HEAD_DIM dimensions."""
    if model.config.head_dim != HEAD_DIM or model.dtype != torch.bfloat16:
        raise ValueError(f"the size bar is for bf16 and head_dim {HEAD_DIM}")
    state = drawn_states(model, context, ["k4v4"])["k4v4"]
    model.decode(state, [1])
    full = _bf16_bytes(model, context)
    return Bar.at_least(
        f"k4v4 cache at {context} tokens, bf16: full / k4v4", SMALLER, full / live_cache_bytes(state), "x"
    )


def _rate(model: Model, state: SequenceState, rounds: int) -> float:
    """Bytes/s of one layer's attention over its whole cache, everything but the projections included."""
    cache = state.kv[len(state.kv) // 2]
    config = model.config
    q = torch.ones(model.rows, config.num_heads, config.head_dim, dtype=model.dtype, device=model.device)
    with torch.inference_mode():
        taken = [
            _timed(model, lambda: attend(q, cache, state.length, state.length + model.rows)) for _ in range(rounds + 1)
        ]
    return cache.nbytes / median(taken[1:])


def _timed(model: Model, call: Callable[[], object]) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    started = time.perf_counter()
    call()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - started


def _bf16_bytes(model: Model, context: int) -> int:
    return model.cache_bytes(FULL, context) // model.dtype.itemsize * torch.bfloat16.itemsize
