"""The decode mode that a lane runs in, in our words: as declared, else as its server tells.

Must not: name a safer mode than what was told. Invariant: a cache of so many bits is never called one of more.
"""

from __future__ import annotations

from policies.modes import DecodeMode
from proxy.lanes.capabilities import NO_DRAFTS, LaneCapabilities
from proxy.lanes.settings import Lane

_FULL = frozenset({"auto", "f16", "f32", "bf16", "float16", "float32", "bfloat16", "half", "none", ""})

_BY_GRAMS = ("ngram", "n-gram", "suffix", "lookup")
_BY_MODEL = ("mtp", "eagle", "draft", "nextn", "medusa", "standalone", "dflash", "mlp")


def running_mode(lane: Lane, can: LaneCapabilities, fast: bool) -> DecodeMode:
    """fast: the lane is the fast one, which drafts where it does not say."""
    if lane.mode:
        return DecodeMode.parse(lane.mode)
    return DecodeMode(_drafter(can.speculation, fast), _codec(can.kv))


def _drafter(told: str | None, fast: bool) -> str:
    """n-grams, or a model of whatever kind, which we call by its most common one."""
    if told is None:
        return "mtp" if fast else "none"
    names = told.lower()
    if names == NO_DRAFTS:
        return "none"
    by_grams = any(each in names for each in _BY_GRAMS)
    by_model = any(each in names for each in _BY_MODEL)
    if by_grams:
        return "mtp+ngram" if by_model else "ngram"
    return "mtp"


def _codec(told: str | None) -> str:
    """By the bits of keys and of values; what is unknown is the coarsest."""
    names = (told or "").lower()
    parts = [part.strip() for part in names.replace(",", "/").split("/")]
    if all(part in _FULL for part in parts):
        return "full"
    if "k8v4" in names:
        return "k8v4"
    if any(mark in names for mark in ("k3", "3bit", "tbq3", "turbo3", "turbo2", "tq3", "2bit")):
        return "k3v3"
    bits = [_bits(part) for part in parts]
    keys, values = bits[0], bits[-1]
    if keys >= 8:
        return "k8v8" if values >= 8 else "k8v4"
    return "k4v4" if keys >= 4 and values >= 4 else "k3v3"


def _bits(name: str) -> int:
    if name in _FULL:
        return 16
    if any(mark in name for mark in ("fp8", "q8", "int8", "8bit", "e4m3", "e5m2", "mxfp8")):
        return 8
    if any(mark in name for mark in ("4", "q5", "iq4", "nvfp4")):
        return 4
    return 3
