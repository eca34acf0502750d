"""The ladder of decode modes: which safer one a response goes on in, by whom a rule accuses.

Must not: know what tripped, or how an engine gets from one mode to another.
Invariant: every step is strictly safer (fewer things switched on, none added), so that no mode comes twice and `plain`
is reached after two steps at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.modes import PLAIN, DecodeMode
from policies.rules import Accused


def safer(mode: DecodeMode, accused: Accused) -> DecodeMode | None:
    """The rung below `mode`; None in plain decoding, below which there is nothing.

    speculation: the drafter is dropped and the codec kept, so that the cache stays what it is. kv: full precision is
    restored and the drafter kept. unknown, or where the accused is not even switched on: plain.
    """
    if mode == PLAIN:
        return None
    if accused == "speculation" and mode.speculates:
        return DecodeMode("none", mode.codec)
    if accused == "kv" and mode.codec != "full":
        return DecodeMode(mode.drafter, "full")
    return PLAIN


def landing(mode: DecodeMode, rungs: Sequence[str]) -> DecodeMode:
    """The mode that a response gets which is to go on in `mode`: the same, or where there are but certain rungs and it
    is none of them, the safest one, which is the last. rungs: empty = there are all."""
    return mode if not rungs or str(mode) in rungs else DecodeMode.parse(rungs[-1])


def is_safer(mode: DecodeMode, than: DecodeMode) -> bool:
    """Has it something switched off, and nothing on that the other one has not?"""
    drafter, codec = mode.drafter in ("none", than.drafter), mode.codec in ("full", than.codec)
    return mode != than and drafter and codec
