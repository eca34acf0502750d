"""Random weights at a real model's size: what a decode step costs against what the device's memory can deliver.

Must not: need any file, or start to allocate what does not fit.
Invariant: bytes are those of the tensors that a step multiplies by, counted from the very tensors that the model took;
achieved bytes/s = those bytes / the step's wall time, device idle before and after.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from engine.bench.arguments import Options
from engine.bench.report import Report, Table
from engine.capture_check import check_captures
from engine.config import ModelConfig
from engine.drafters.mtp import MtpDrafter
from engine.dtype import parse_dtype
from engine.engine import check_device
from engine.errors import ConfigError
from engine.memory import free_memory
from engine.model import Model
from engine.sampler import SamplingParams, choose
from engine.sequence import Sequence
from engine.weights import Weights

# Sources: config.json of Qwen3.5/3.6-27B as the model cards print it; the vision part is left out.
FIELDS: dict[str, dict[str, Any]] = {
    "qwen3.6-27b": {
        "model_type": "qwen3_5_text",
        "vocab_size": 248_320,
        "hidden_size": 5120,
        "intermediate_size": 17_408,
        "num_hidden_layers": 64,
        "full_attention_interval": 4,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 48,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
        "max_position_embeddings": 262_144,
        "tie_word_embeddings": False,
        "mtp_num_hidden_layers": 1,
    }
}
PROMPT = 512
CHAINS = (1, 2, 3)
HEADROOM = 1.05
"""Of the weights: activations, caches, and the second copy of a matrix while its parts are joined."""


class RandomWeights(Weights):
    """Hands out random tensors of whatever is asked for. sizes: bytes per name of what was taken."""

    def __init__(self, device: torch.device | str, mtp: bool) -> None:
        self.device = torch.device(device)
        self.taken_bytes = self.dequantised = 0
        self.sizes: dict[str, int] = {}
        self._mtp = mtp

    def has(self, name: str) -> bool:
        return self._mtp and name == "mtp.fc.weight"  # no experts, no separate router

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Values like those of an initialised model: matrices scaled by their width, vectors near zero."""
        tensor = torch.empty(shape, device=self.device, dtype=dtype)
        self.sizes[name] = tensor.numel() * tensor.element_size()
        self.taken_bytes += self.sizes[name]
        return tensor.normal_(std=shape[-1] ** -0.5 if len(shape) > 1 else 0.02)

    def finish(self) -> None:
        pass


def shape_config(name: str, layers: int | None = None, **changes: Any) -> ModelConfig:
    """The sizes of a named model, `layers` deep. changes: fields to replace, to try it small. Raises ConfigError."""
    config = ModelConfig.parse(FIELDS[name] | changes)
    if layers is not None:
        if layers > config.num_layers:
            raise ConfigError(f"--layers: {name} has {config.num_layers} layers, not {layers}")
        config = replace(config, layer_types=config.layer_types[:layers])
    return config


def weigh(config: ModelConfig, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of every tensor, without allocating any."""
    weights = RandomWeights("meta", config.mtp_layers > 0)
    Model(weights, config, dtype, rows=8, prefill_rows=128)
    return weights.sizes


def step_bytes(sizes: dict[str, int], tied: bool) -> tuple[int, int]:
    """(bytes that one decode step reads, bytes that one drafted token of the MTP head reads); the embedding is a
    look-up of a few rows."""
    head = sizes["embed_tokens.weight" if tied else "lm_head.weight"]
    mtp = sum(size for name, size in sizes.items() if name.startswith("mtp."))
    looked_up = 0 if tied else sizes["embed_tokens.weight"]
    return sum(sizes.values()) - mtp - looked_up, mtp + head


def measure_shape(
    options: Options, settings: dict[str, Any], progress: Callable[[str], None], config: ModelConfig | None = None
) -> Report:
    """Builds the model and times plain and MTP steps. config: instead of the named one. Raises ConfigError: no room."""
    name = options.shape or "custom"
    check_device(options.device)
    device = torch.device(options.device)
    config = config or shape_config(name, options.layers)
    dtype = parse_dtype(options.dtype or "bfloat16", options.device, config, rows=8)
    sizes = weigh(config, dtype)
    check_memory(sum(sizes.values()), config, device)
    bandwidth = copy_bandwidth(device)
    progress(f"{name}: {config.num_layers} layers, {sum(sizes.values()) / 1e9:.1f} GB of random weights on {device}")
    torch.manual_seed(0)
    model = Model(RandomWeights(device, config.mtp_layers > 0), config, dtype, rows=8, prefill_rows=128)
    target, drafted = step_bytes(sizes, config.tie_word_embeddings)
    steps = 4 if options.quick else 32
    rows: list[tuple[Any, ...]] = []
    captured = check_captures(model)
    modes = [(f"mtp {chain}" if chain else "plain", chain) for chain in (0, *(CHAINS if model.mtp is not None else ()))]
    for mode, chain in [(UNCAPTURED, 0), *modes] if captured else modes:
        with model.captures.paused() if mode == UNCAPTURED else nullcontext():
            whole, draft = _time_steps(model, chain, steps)
        read = target + chain * drafted
        rate = read / whole
        rows.append(
            (
                mode,
                whole * 1e3,
                draft * 1e3,
                (whole - draft) * 1e3,
                read / 1e9,
                rate / 1e9,
                rate / bandwidth,
                1 / whole,
                (chain + 1) / whole,
            )
        )
        progress(f"{rows[-1][0]}: {whole * 1e3:.1f} ms a step, {rate / 1e9:.0f} GB/s")
    columns = (
        "mode",
        "step ms",
        "draft ms",
        "verify ms",
        "GB read",
        "GB/s",
        "of copy",
        "steps/s",
        "tokens/s, all accepted",
    )
    note = (
        f"copy bandwidth {bandwidth / 1e9:.0f} GB/s (read + write); context {PROMPT} tokens; medians of {steps} steps; "
        + ("steps are captured" if captured else f"steps are not captured: {model.captures.why or 'short context'}")
    )
    data = {
        "weight_bytes": sum(sizes.values()),
        "copy_bytes_per_second": bandwidth,
        "captured": captured,
        "steps": [dict(zip(("mode", "step_ms", "draft_ms"), row[:3], strict=True)) for row in rows],
    }
    settings = settings | {"shape": name, "layers": config.num_layers, "dtype": str(dtype).removeprefix("torch.")}
    return Report("engine", settings, (Table(f"{name}, random weights", columns, tuple(rows), note),), data=data)


UNCAPTURED = "plain, not captured"


def copy_bandwidth(device: torch.device, size: int = 1 << 28, tries: int = 5) -> float:
    """Bytes/s of copying `size` bytes on the device, read and write counted; the best of some tries."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(tries):
        _settle(device)
        started = time.perf_counter()
        target.copy_(source)
        _settle(device)
        best = max(best, 2 * size / (time.perf_counter() - started))
    return best


def _time_steps(model: Model, chain: int, steps: int) -> tuple[float, float]:
    """Median seconds of (a whole step, its drafting). Every draft is taken as right; random ones never are."""
    sequence = Sequence(model)
    vocabulary = model.config.vocab_size
    mtp = MtpDrafter(model, lambda: sequence.state, vocabulary, max_chain=chain) if chain else None
    if mtp is not None:
        sequence.drafters = {"mtp": mtp}
    rng = random.Random(0)
    room = model.config.max_context - (chain + 1) * (steps + 2) - 1
    sequence.begin([rng.randrange(vocabulary) for _ in range(min(PROMPT, room))])
    for _ in sequence.prefill():
        pass
    whole, draft = [], []
    for number in range(steps + 2):
        _settle(model.device)
        started = time.perf_counter()
        drafts = mtp.propose(chain) if mtp is not None else []
        between = time.perf_counter()  # a proposal is a list of numbers, so the device has finished it
        rows = sequence.decode(drafts)
        first = len(sequence.tokens)
        choice = choose(rows.logits, range(first, first + len(drafts) + 1), SamplingParams(), vocabulary)
        new = [*drafts, choice.ids[-1]]
        sequence.commit(new, rows.hidden[: len(new)], speculative=bool(drafts))
        _settle(model.device)
        if number >= 2:  # the first ones load kernels
            whole.append(time.perf_counter() - started)
            draft.append(between - started)
    return median(whole), median(draft)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_memory(weights: int, config: ModelConfig, device: torch.device) -> None:
    """Raises ConfigError that says how much is missing. weights: bytes that must fit, whatever they are of."""
    needed, free = weights * HEADROOM, free_memory(device)
    if free is not None and needed > free:
        raise ConfigError(
            f"{device}: {needed / 1e9:.1f} GB are needed for {config.num_layers} layers, {free / 1e9:.1f} GB are free; "
            f"{(needed - free) / 1e9:.1f} GB are missing. Use a larger device, or fewer layers with --layers N"
        )
