"""Official FP8 weights: float8_e4m3fn values with one scale per block of 128 x 128.

Must not: guess a block size or a scale; a float8 tensor without both cannot be read.
Invariant: the scale MULTIPLIES, although the files call it `weight_scale_inv` (a loader that divided or dropped it made
word salad: sglang #23687). Weights are dequantised at load; nothing computes in float8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import ConfigError, WeightError
from engine.fields import Fields

FLOAT8 = torch.float8_e4m3fn
SCALE = "_scale_inv"
"""A weight's scale has the weight's name with this behind it."""


def read_block(quantisation: Fields) -> tuple[int, int]:
    """The block size that `quantization_config` states: (output rows, input columns).

    Which modules are quantised is decided per tensor by its type, so `modules_to_not_convert` is not needed.
    Raises ConfigError for every other method.
    """
    method = quantisation.raw.get("quant_method")
    if method != "fp8":
        raise ConfigError(
            f"{quantisation.path}quant_method: {method!r:.60} is not supported; use bf16 or fp32 weights, or the "
            "official FP8 ones (quant_method 'fp8')"
        )
    # static activation scales would be tensors of their own, and other formats have another bias
    quantisation.only("activation_scheme", "dynamic")
    quantisation.only("fmt", "e4m3")
    block = quantisation.sizes("weight_block_size")
    if len(block) != 2 or 0 in block:
        raise ConfigError(
            f"{quantisation.path}weight_block_size: must be two sizes above 0, found {list(block)}; one scale per "
            "tensor or per channel is not supported"
        )
    return block[0], block[1]


def dequantise(name: str, weight: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """weight: float8 [..., N, K]; scale: any float [..., ceil(N / block[0]), ceil(K / block[1])]; returns fp32.

    Raises WeightError if the shapes do not fit each other, or the scale is not a float.
    """
    if not scale.is_floating_point():
        # some files store exponents as bytes; read as numbers they would be silently wrong
        raise WeightError(f"{name}{SCALE}: has type {scale.dtype}; only floating point scales are supported")
    rows, columns = weight.shape[-2:] if weight.dim() > 1 else (0, 0)
    wanted = [*weight.shape[:-2], -(-rows // block[0]), -(-columns // block[1])]
    if weight.dim() < 2 or list(scale.shape) != wanted:
        raise WeightError(
            f"{name}{SCALE}: has shape {list(scale.shape)}, blocks of {block[0]} x {block[1]} of {name} "
            f"({list(weight.shape)}) ask for {wanted}"
        )
    wide = scale.float().repeat_interleave(block[0], -2)[..., :rows, :]
    return weight.float() * wide.repeat_interleave(block[1], -1)[..., :columns]
