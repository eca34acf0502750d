"""Which number format to compute in, where the user leaves it open: measured on the device, at the model's own sizes.

Must not: load a model, or be asked again during a run (formats differ in their last bits).
Invariant: bfloat16 is chosen only where it is clearly faster; otherwise float32, which loses nothing of the weights.
What was chosen once holds for the process: an engine that replaces another, or is compared with one, computes alike.
"""

from __future__ import annotations

import threading
import time

import torch

from engine.config import ModelConfig
from engine.errors import ConfigError
from engine.layers import Linear

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTO = "auto"
CLEARLY = 1.5
"""Times faster that bfloat16 must be. With AMX it is 2 to 4 times, with AVX-512 up to 2, without often slower (AVX2:
always)."""
_chosen: dict[tuple[str, int, int, int], torch.dtype] = {}
_choosing = threading.Lock()
LARGEST = 64 << 20
"""Most elements of the measured matrix: enough to leave the processor's caches."""


def parse_dtype(name: str, device: str, config: ModelConfig, rows: int) -> torch.dtype:
    """The format called `name`; `auto` measures. Raises ConfigError for an unknown name."""
    if name == AUTO:
        sizes = (device, config.hidden_size, config.intermediate_size, rows)
        with _choosing:
            if sizes not in _chosen:
                _chosen[sizes] = choose_dtype(device, config, rows)
            return _chosen[sizes]
    if name not in DTYPES:
        raise ConfigError(f"dtype: {name!r} is not supported; use one of {', '.join((AUTO, *DTYPES))}")
    return DTYPES[name]


def choose_dtype(device: str, config: ModelConfig, rows: int) -> torch.dtype:
    """A step's time goes into matrix products of `rows` rows: the larger one of the MLP stands for all of them, once
    per layer, so that the weights come from where they come from in a step.

    About 0.1 s for a large model on a CPU. Devices other than a CPU compute in bfloat16.
    """
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    wide = min(2 * max(config.intermediate_size, config.hidden_size), max(LARGEST // config.hidden_size, 1))
    count = max(min(config.num_layers, LARGEST // (wide * config.hidden_size)), 1)
    shape = (count, rows, config.hidden_size, wide)
    single, half = (_milliseconds(*shape, dtype) for dtype in (torch.float32, torch.bfloat16))
    return torch.bfloat16 if half * CLEARLY <= single else torch.float32


@torch.inference_mode()
def _milliseconds(count: int, rows: int, hidden: int, wide: int, dtype: torch.dtype, repeats: int = 8) -> float:
    """The best of a few: what disturbs a measurement only ever makes it longer."""
    products = [Linear(torch.ones(wide, hidden, dtype=dtype)) for _ in range(count)]
    x, best = torch.ones(rows, hidden, dtype=dtype), float("inf")
    for attempt in range(repeats + 1):
        started = time.perf_counter()
        for product in products:
            product(x)
        if attempt:  # the first one allocates
            best = min(best, time.perf_counter() - started)
    return best * 1e3
