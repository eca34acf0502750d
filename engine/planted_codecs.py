"""Faults of compressed caches, planted where codes are written and read: other people's failures in our codec.

Must not: be imported by anything that runs without a planted fault but the engine's own start.
Invariant: a full cache is never touched, so `plain/full` cures all of them; clones and forks of a faulty cache have
the fault too, as a wrong kernel is wrong for everybody.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.codecs.quantiser import Encoded, Quantiser, Scratch
from engine.compressed import CompressedCache, Layout
from engine.faults import Fault
from engine.kv import pieces

SCALE_FACTOR = 1.05
DAMAGED_SHARE = 0.05
"""Of the bytes that hold codes."""
SEED = 11


@dataclass(slots=True)
class _Faulty:
    """A quantiser that does as another one. alone: the newest write was of a single row."""

    sound: Quantiser
    alone: bool = False

    @property
    def bits(self) -> int:
        return self.sound.bits

    @property
    def width(self) -> int:
        return self.sound.width

    @property
    def dtype(self) -> torch.dtype:
        return self.sound.dtype

    @property
    def turn(self) -> Tensor:
        return self.sound.turn

    @property
    def rotate(self) -> Tensor:
        return self.sound.rotate

    def encode_block(self, x: Tensor) -> Encoded:
        return self.sound.encode_block(x)

    def decode(self, codes: Tensor, scratch: Scratch) -> Tensor:
        return self.sound.decode(codes, scratch)


class _Unrotated(_Faulty):
    def encode_block(self, x: Tensor) -> Encoded:
        # turned back first, the codec's own turn leaves the vector as it came
        return self.sound.encode_block(x @ self.sound.turn.T)


class _Scaled(_Faulty):
    def encode_block(self, x: Tensor) -> Encoded:
        encoded = self.sound.encode_block(x)
        return replace(encoded, scale=(encoded.scale.float() * SCALE_FACTOR).to(encoded.scale.dtype))


class _Halved(_Faulty):
    def decode(self, codes: Tensor, scratch: Scratch) -> Tensor:
        values = self.sound.decode(codes, scratch)
        if self.alone:
            values[..., values.shape[-1] // 2 :] = 0
        return values


class UnrotatedKeys(CompressedCache):
    """KEYS_UNROTATED."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(replace(layout, keys=_Unrotated(layout.keys)))


class ScaledKeys(CompressedCache):
    """CODES_SCALED."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(replace(layout, keys=_Scaled(layout.keys)))


class HalvedValues(CompressedCache):
    """VALUES_HALVED."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(replace(layout, values=_Halved(layout.values)))

    def write(self, position: int, keys: Tensor, values: Tensor, clear: int = 0) -> None:
        # whoever writes a row reads the cache next, so this is the step that the reader is asked for
        assert isinstance(self.layout.values, _Halved)
        self.layout.values.alone = len(keys) == 1
        super().write(position, keys, values, clear)


_CACHES: dict[Fault, Callable[[Layout], CompressedCache]] = {
    Fault.KEYS_UNROTATED: UnrotatedKeys,
    Fault.CODES_SCALED: ScaledKeys,
    Fault.VALUES_HALVED: HalvedValues,
}


def coded_caches(fault: Fault | None) -> Callable[[Layout], CompressedCache]:
    """What makes compressed caches with this fault; sound ones for faults that are none of a codec's."""
    return CompressedCache if fault is None else _CACHES.get(fault, CompressedCache)


@torch.inference_mode()
def damage(caches: Sequence[object]) -> bool:
    """CODES_DAMAGED: overwrites a share of the committed codes; whether there were any."""
    rng, hit = random.Random(SEED), False
    for cache in caches:
        if not isinstance(cache, CompressedCache) or not cache.coded:
            continue
        hit = True
        for codes in (cache.key_codes, cache.value_codes):
            for tile, at in pieces(0, cache.coded):
                stored = codes[tile, :, at].view(torch.uint8)
                count = max(round(stored.numel() * DAMAGED_SHARE), 1)
                places = torch.tensor(rng.sample(range(stored.numel()), count), device=codes.device)
                wrong = torch.tensor(rng.choices(range(1, 256), k=count), dtype=torch.uint8, device=codes.device)
                flat = stored.flatten()
                flat[places] ^= wrong
                codes[tile, :, at] = flat.view(stored.shape).view(codes.dtype)
    return hit
