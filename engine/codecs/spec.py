"""The codecs by name, which layers they apply to, and the header that tells what a cache was written with.

Must not: hold tensors.
Invariant: two caches with equal headers were written by the same rules, so their bits may be mixed; nothing else may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.codecs.rotation import SEED

FULL = "full"
DEFAULT = "k4v4"
"""What `turboquant` means."""
VERSION = 1
"""Of the rules below and of all arithmetic in this package; raise it with any change that moves a bit."""
FLUSH = 64
"""A query row at position t reads keys below t // 64 * 64 as codes and the rest as computed. The same for every row of
prefill, decode and verification, so that nothing depends on how many rows stand together. Equal to the inner chunk of
the recurrent layers: where those can be restored, the window of raw rows is empty and nothing else is needed."""
SINKS = 4
"""Tokens at the very start that stay raw: attention sinks tolerate no noise."""
PROTECTED, DEEP = 2, 16
"""The first and last two layers of a model with at least so many attention layers and no other layers stay full."""


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """Bits per coordinate of keys and values."""

    name: str
    key_bits: int
    value_bits: int

    @property
    def header(self) -> str:
        return f"{self.name}/v{VERSION}/seed{SEED}/flush{FLUSH}/sinks{SINKS}"


SPECS = {
    spec.name: spec
    for spec in (
        CodecSpec("k8v8", 8, 8),
        CodecSpec("k8v4", 8, 4),
        CodecSpec("k4v4", 4, 4),
        CodecSpec("k4v2", 4, 2),
        CodecSpec("k3v3", 3, 3),
    )
}
CODECS = (FULL, *SPECS)
LOW_BITS = 4
"""Keys of fewer bits lose the exact recall that tool calls live on."""


def check_codec(name: str, tools: bool = False, forced: bool = False) -> None:
    """Raises ValueError that begins with `codec:`. tools: the response may call tools."""
    if name not in CODECS:
        raise ValueError(f"codec: {name!r} is unknown; use one of {', '.join(CODECS)}")
    if tools and not forced and name != FULL and SPECS[name].key_bits < LOW_BITS:
        raise ValueError(
            f"codec: {name!r} keeps keys in less than {LOW_BITS} bits, which breaks tool calls; "
            "use 'k4v4' or wider, or force it"
        )


def layer_codecs(codec: str, attention_layers: int, other_layers: int) -> Sequence[str]:
    """The codec of each attention layer."""
    if codec == FULL or other_layers or attention_layers < DEEP:
        return [codec] * attention_layers
    ends = [FULL] * PROTECTED
    return [*ends, *[codec] * (attention_layers - 2 * PROTECTED), *ends]


def header(codec: str, full_prefill: bool = False) -> str:
    """What a prefix must have been written with to be taken over. full_prefill: prompts are coded once they are
    complete, and read in full precision until then (engine.shadow)."""
    if codec == FULL:
        return FULL
    return SPECS[codec].header + ("/full-prefill" if full_prefill else "")
