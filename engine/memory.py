"""How many bytes attention caches take, and whether so many are free.

Must not: allocate, or promise what other programs may take meanwhile: an answer holds for the moment.
Invariant: the sizes are those that the caches really allocate for a context that is known beforehand, scratch excluded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.codecs.spec import FLUSH, FULL, SINKS, SPECS, layer_codecs
from engine.config import LINEAR, ModelConfig
from engine.kv import TILE


def cache_bytes(config: ModelConfig, codec: str, context: int, dtype: torch.dtype, window: int) -> int:
    """Bytes of all attention caches of one sequence of `context` tokens. window: raw rows of a compressed cache."""
    linear = sum(kind == LINEAR for kind in config.layer_types)
    tokens = -(-context // TILE) * TILE
    raw = 2 * config.head_dim * dtype.itemsize
    total = 0
    for name in layer_codecs(codec, config.num_layers - linear, linear):
        if name == FULL:
            total += tokens * raw
            continue
        spec = SPECS[name]
        coded = config.head_dim * (spec.key_bits + spec.value_bits) // 8 + 2 * torch.float16.itemsize
        seals = tokens // FLUSH * torch.int64.itemsize
        total += tokens * coded + seals + (SINKS + window) * raw + config.head_dim * torch.float32.itemsize
    return total * config.num_kv_heads


@dataclass(frozen=True, slots=True)
class Budget:
    """limit: most bytes that the attention caches of one sequence may take, None = what is free on the device."""

    device: torch.device
    limit: int | None = None

    def has_room(self, needed: int, held: int = 0) -> bool:
        """Whether `needed` bytes fit once the `held` ones are given back."""
        if self.limit is not None:
            return needed <= self.limit
        free = free_memory(self.device)
        return free is None or needed <= free + held


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where this cannot be found out."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            available = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(available.split()[1]) * 1024
